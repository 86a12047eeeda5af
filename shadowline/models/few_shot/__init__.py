"""A first model from a few normal images: nearest references by DINOv2 patch features."""
