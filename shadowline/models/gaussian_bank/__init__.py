"""A class's memory bank: one Gaussian of its normal patches, merged associatively from moments."""
