"""Backup and proving restore."""
