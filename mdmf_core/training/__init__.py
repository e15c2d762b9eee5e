"""Training and evaluating a scorer: recipe, PFS training, choice, baselines, augmentation, figures."""
