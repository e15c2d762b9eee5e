"""Prefect flows, one deployment a file. The body of each reads like a table of contents."""
