"""Reproduction, verification, decision records and evidence packs."""
