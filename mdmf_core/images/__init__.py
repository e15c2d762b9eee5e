"""From bytes to upright pixels and crops, and what a file says of its past."""
