"""Measurements against stated targets; none of it runs as a timed test. `make bench` runs them, see `frame`."""
