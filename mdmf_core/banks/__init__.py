"""Reference banks, their calibration, their domains, and how both are assembled from real images."""
