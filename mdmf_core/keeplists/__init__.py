"""Keep-lists, as training code reads them: imports no torch."""
