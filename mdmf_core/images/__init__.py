"""Image files become upright pixels and crops, and tell of their past."""
