"""Rows of the warehouse as plain records."""

from collections.abc import Sequence
from typing import Any

import duckdb

Records = list[dict[str, Any]]


def records(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Records:
    """Returns the result of one query, each row as a record by column."""
    rows = connection.execute(sql, parameters).fetchall()
    names = column_names(connection)
    return [dict(zip(names, row, strict=True)) for row in rows]


def column_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Returns the column names of the connection's newest result."""
    return [column[0] for column in connection.description or []]
