"""The frozen vision transformer and the cache of its features."""
