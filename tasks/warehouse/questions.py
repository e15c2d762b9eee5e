"""Questions to the warehouse, which can only read, as pandas frames."""

import json
import math
import warnings
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import duckdb
import pandas as pd

from mdmf_core.errors import MdmfError
from tasks.warehouse.warehouse import Warehouse

# What a question may be. ATTACH could open the file a second time, for writing.
_QUESTIONS = ("SELECT", "MULTI", "COPY", "EXPLAIN")  # MULTI: a PIVOT


def query(warehouse: Warehouse, sql: str, parameters: list[Any] | None = None, as_of: str | None = None) -> pd.DataFrame:
    """Returns the result of one read-only query as a pandas frame."""
    with warehouse.connect(read_only=True, as_of=as_of) as connection:
        return answer(connection, sql, parameters)


def answer(connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> pd.DataFrame:
    """Returns the answer to a question on an open connection as a pandas frame.

    Raises:
        MdmfError: the SQL could change something.
    """
    require_question(connection, sql)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The inplace keyword")  # duckdb's own way with time zones
        return connection.execute(sql, parameters or []).df()


def json_lines(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    """The answer to a question, one JSON object a row.

    Integers of any size stay exact, UUIDs and moments are text, bytes are hexadecimal text, NaN and infinities are null.

    Raises:
        MdmfError: as ``require_question``.
    """
    require_question(connection, sql)
    result = connection.execute(sql)
    names = [column[0] for column in result.description or ()]
    return [json.dumps(_plain(dict(zip(names, row, strict=True))), ensure_ascii=False) for row in result.fetchall()]


def _plain(value: Any) -> Any:
    """A value of DuckDB, however deep, as JSON has it."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return float(value) if len(value.as_tuple().digits) <= 15 else str(value)
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def require_question(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raises MdmfError for anything but questions, which may read other files and write their answer to one."""
    statements = connection.extract_statements(sql)
    if not statements:
        raise MdmfError(f'no query in {sql!r}: ask for example "SELECT key, score FROM flagged(0.05)"')
    for statement in statements:
        if statement.type.name not in _QUESTIONS:
            raise MdmfError(
                f"{statement.type.name} is no question: SELECT, COPY (SELECT ...) TO and EXPLAIN are allowed here, and nothing "
                "can be changed; for other statements use `duckdb -readonly`"
            )
