"""Shadowline: from many single-class inspection models to one multi-class model, without a day of worse inspection."""
