"""Notebooks and training code import this package to query a warehouse and to apply keep-lists.

Importing it costs next to nothing; DuckDB is imported when the warehouse is asked, torch never by a keep-list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mdmf_core.errors import KeepListError, MdmfError
from mdmf_core.keeplists.keeplist import KeepList

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["KeepList", "KeepListError", "MdmfError", "to_arrow", "to_pandas"]


def to_pandas(warehouse: str, sql: str, parameters: list[Any] | None = None) -> pd.DataFrame:
    """Runs one read-only query and returns a pandas frame: ``to_pandas("w.duckdb", "SELECT * FROM flagged(?)", [0.05])``."""
    from tasks.warehouse.questions import query
    from tasks.warehouse.warehouse import Warehouse

    return query(Warehouse.at(warehouse), sql, parameters)


def to_arrow(warehouse: str, sql: str, parameters: list[Any] | None = None) -> pa.Table:
    """Runs one read-only query and returns an Arrow table, for polars, datasets, Ray and others."""
    from tasks.warehouse.questions import require_question
    from tasks.warehouse.warehouse import Warehouse

    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        require_question(connection, sql)
        return connection.sql(sql, params=parameters or []).to_arrow_table()
