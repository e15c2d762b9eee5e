"""The scorer, its files, patch evidence; costs of the stages and advice on speed."""
