"""The signed, append-only log of what was done, and the comparison of the records with it."""
