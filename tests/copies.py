"""Copies of a landed warehouse, to be changed by hand, and the digest of what they hold."""

import shutil
from pathlib import Path

from tasks.content import content_digest
from tasks.warehouse import connect


def copied(landed: Path, folder: Path) -> str:
    """The warehouse of a copy of ``landed`` with its shards and parts."""
    shutil.copytree(landed, folder / "copy")
    return str(folder / "copy" / "w.duckdb")


def digest(warehouse: str) -> str:
    with connect(warehouse, read_only=True) as connection:
        return content_digest(connection)


def change(warehouse: str, *statements: str) -> None:
    with connect(warehouse) as connection:
        for statement in statements:
            connection.execute(statement)
