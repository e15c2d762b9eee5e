"""From pixels to patch signatures: forensic statistics, timm ViTs, passes through the backbone, the PFS."""
