"""The audit: a signed chain of what was done, decisions that can be shown again, and packs of evidence."""
