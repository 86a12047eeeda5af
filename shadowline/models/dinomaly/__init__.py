"""Dinomaly on cached features: decoder, loss, schedule and training (Guo et al., arXiv 2405.14325, CVPR 2025)."""
