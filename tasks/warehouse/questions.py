"""Questions to the warehouse, which can only read, as pandas frames."""

import warnings
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


def require_question(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raises MdmfError for anything but questions, which may read other files and write their answer to one."""
    for statement in connection.extract_statements(sql):
        if statement.type.name not in _QUESTIONS:
            raise MdmfError(
                f"{statement.type.name} is no question: SELECT, COPY (SELECT ...) TO and EXPLAIN are allowed here, and nothing "
                "can be changed; for other statements use `duckdb -readonly`"
            )
