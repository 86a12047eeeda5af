"""PatchCore (Roth et al., arXiv 2106.08265): the single-class baseline."""
