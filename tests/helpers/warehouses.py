"""Warehouses that are copied, changed by hand, or held by another process."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from tasks.maintenance.content_digest import content_digest
from tasks.warehouse.parts_view import connect_parts
from tasks.warehouse.questions import answer
from tasks.warehouse.warehouse import Warehouse


def copied(landed: Path, folder: Path) -> str:
    """Copies the folder ``landed`` with its shards and parts and gives the copy's warehouse."""
    shutil.copytree(landed, folder / "copy")
    return str(folder / "copy" / "w.duckdb")


def digest(warehouse: str) -> str:
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        return content_digest(connection)


def change(warehouse: str, *statements: str) -> None:
    with Warehouse.at(warehouse).connect() as connection:
        for statement in statements:
            connection.execute(statement)


_HOLD = """
import duckdb, sys
with duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reading") as connection:
    if sys.argv[2] == "writing":
        connection.execute("CREATE TABLE being_written (a INTEGER)")
    print("open", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(warehouse: str, how: str) -> Iterator[subprocess.Popen]:
    """Starts another process that has the warehouse open, ``reading`` or ``writing``, until its input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, warehouse, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "open\n"
        yield process


def query_parts(warehouse: Warehouse, sql: str) -> pd.DataFrame:
    """Returns the result of one query on the finished parts, as `mdmf sql --parts` asks it."""
    with connect_parts(warehouse) as connection:
        return answer(connection, sql)
