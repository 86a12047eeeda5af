"""Images in: sources, manifest, splits, decoding within bounds, perturbations, near-identical frames."""
