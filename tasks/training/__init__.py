"""`mdmf train` and `mdmf evaluate`: labelled sets, the token cache, cross-validation, the directory of a trained scorer."""
