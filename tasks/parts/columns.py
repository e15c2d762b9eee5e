"""The columns of a part: the one table that parts, landing, the recount and the report's details follow.

A new column takes a row here, the code that computes its value, and a migration that adds it to its table and views.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Table = Literal["images", "scores", "exclusions"]


@dataclass(frozen=True)
class Column:
    """One column of a part, and where its values land."""

    name: str
    arrow: pa.DataType  # in a part
    sql: str  # in the warehouse
    tables: tuple[Table, ...]
    compared: bool = True  # whether `mdmf verify` compares the part's values with the rows that landed
    absent: object = None  # lands where a part holds no value, as parts written before the column hold none; None = NULL
    label: str = ""  # the column's name in the details of the report; "" = the page shows it otherwise, or not at all
    hint: str = ""  # what the report says beside the value


_TEXT, _FLAG, _INT, _LONG, _REAL = pa.string(), pa.bool_(), pa.int32(), pa.int64(), pa.float64()
COLUMNS = (
    Column("key", _TEXT, "VARCHAR", ("images", "exclusions")),
    Column("sha256", _TEXT, "VARCHAR", ("images",)),
    Column("format", _TEXT, "VARCHAR", ("images",)),
    Column("width", _INT, "INTEGER", ("images",)),
    Column("height", _INT, "INTEGER", ("images",)),
    Column("bytes", _LONG, "BIGINT", ("images",)),
    Column("locator", _LONG, "BIGINT", ("images",)),
    Column("jpeg_quality", _INT, "INTEGER", ("images",), label="JPEG quality"),
    Column("border_px", _INT, "INTEGER", ("images",)),
    Column("resized", _FLAG, "BOOLEAN", ("images",), label="resized"),
    Column("caption", _TEXT, "VARCHAR", ("images",)),
    Column("url", _TEXT, "VARCHAR", ("images",)),
    Column("sidecar", _TEXT, "JSON", ("images",)),
    Column("reason", _TEXT, "VARCHAR", ("exclusions",)),  # NULL = scored
    Column("detail", _TEXT, "VARCHAR", ("exclusions",)),
    Column("score", _REAL, "DOUBLE", ("scores",), label="score", hint="higher = more likely generated"),
    Column("mmd2", _REAL, "DOUBLE", ("scores",), label="mmd2", hint="distance from the bank, squared"),
    Column("cross_term", _REAL, "DOUBLE", ("scores",), label="cross term", hint="low = far from real"),
    Column("self_term", _REAL, "DOUBLE", ("scores",), label="self term", hint="high = patches alike"),
    Column("top_k", _REAL, "DOUBLE", ("scores",), label="top k", hint="density of the farthest patches"),
    Column("top_patch", _INT, "INTEGER", ("scores",)),
    Column("patches", _INT, "INTEGER", ("scores",)),
    Column("p_value", _REAL, "DOUBLE", ("scores",)),
    Column("domain", _TEXT, "VARCHAR", ("scores",)),
    Column("in_support", _FLAG, "BOOLEAN", ("scores",)),
    Column("scored_at", pa.timestamp("us", tz="UTC"), "TIMESTAMP WITH TIME ZONE", ("scores",), compared=False),
)


def part_schema() -> pa.Schema:
    """The Parquet schema of a part."""
    return pa.schema([pa.field(column.name, column.arrow, nullable=column.name != "key") for column in COLUMNS])


def columns_of(table: Table) -> list[Column]:
    """The columns that land in a table of the warehouse."""
    return [column for column in COLUMNS if table in column.tables]
