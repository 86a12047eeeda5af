"""Audits: reproducing a version, the record of a single decision, and evidence packs."""
