"""The method: bytes, arrays and records in; arrays and records out.

Nothing here imports Prefect or DuckDB, opens a network connection, or reads a clock, the environment or global random
state.
"""
