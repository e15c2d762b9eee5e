"""The warehouse: a DuckDB file or a lake. Addresses, connections, commits, migrations, landing, the registry, questions."""
