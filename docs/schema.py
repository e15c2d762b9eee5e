"""Writes docs/schema.md: what the warehouse's schema says of itself.

python docs/schema.py
"""

import tempfile
from pathlib import Path

import duckdb

from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

PAGE = Path(__file__).parent / "schema.md"
# A view's column means what the column of that name means in the table that the view is of.
_OF = {
    "accounting": "shards",
    "budgets": "calibration_budgets",
    "excluded": "exclusions",
    "reviewed": "reviews",
    "slices": "calibration_slices",
    "verdicts": "reviews",
}
_COLUMNS = """
SELECT column_name, data_type, coalesce(comment, (
  SELECT arg_min(t.comment, list_position([$of, 'scores', 'images', 'shards'], t.table_name))
  FROM duckdb_columns() t WHERE t.column_name = c.column_name AND t.comment IS NOT NULL), '')
FROM duckdb_columns() c WHERE table_name = $name AND NOT internal ORDER BY column_index
"""
_MACROS = """
SELECT function_name || '(' || array_to_string(parameters, ', ') || ')', comment
FROM duckdb_functions() WHERE NOT internal AND database_name = current_database() ORDER BY 1
"""


def page() -> str:
    """The page, from a fresh warehouse."""
    with tempfile.TemporaryDirectory() as folder, Warehouse.at(f"{folder}/warehouse.duckdb").connect() as connection:
        migrate(connection)
        lines = [
            "# The warehouse's schema",
            "",
            "Written by `make schema` from the comments in the database itself; `SELECT * FROM duckdb_columns()` and",
            "`duckdb_functions()` show them in any shell. Examples: [sql.md](sql.md).",
            *_section(connection, "Views", "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal ORDER BY 1"),
            "",
            "## Macros",
            "",
            "| macro | gives |",
            "|---|---|",
            *(f"| `{name}` | {comment} |" for name, comment in connection.execute(_MACROS).fetchall()),
            *_section(connection, "Tables", "SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal ORDER BY 1"),
        ]
    return "\n".join(lines) + "\n"


def _section(connection: duckdb.DuckDBPyConnection, title: str, sql: str) -> list[str]:
    lines = ["", f"## {title}"]
    for name, comment in connection.execute(sql).fetchall():
        lines += ["", f"### `{name}`", "", comment, "", "| column | type | meaning |", "|---|---|---|"]
        columns = connection.execute(_COLUMNS, {"name": name, "of": _OF.get(name)}).fetchall()
        lines += [f"| `{column}` | {kind} | {text} |" for column, kind, text in columns]
    return lines


if __name__ == "__main__":
    PAGE.write_text(page())
