"""Maximum Mean Discrepancy: kernels, the terms of the score, coresets, the two-sample test."""
