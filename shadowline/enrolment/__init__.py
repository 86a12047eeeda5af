"""A new product: its inbox, its phases, its first model."""
