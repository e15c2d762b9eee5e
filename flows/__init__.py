"""Prefect flows, one a file. Each reads as a table of contents of what it does."""
