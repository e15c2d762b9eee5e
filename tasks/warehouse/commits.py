"""Writing to a warehouse: all or nothing, and in a lake again when another writer came first."""

import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import duckdb

from mdmf_core.errors import WarehouseHeld
from tasks.warehouse.attach import is_lake

Given = TypeVar("Given")
# Seconds for which a commit is tried again. One that lands can wait long: its parts are safe.
PATIENCE = 600.0
_FIRST, _LONGEST = 0.05, 5.0  # seconds between two tries
# In words of DuckLake, SQLite and PostgreSQL: somebody else committed in between, or is committing now.
_CAME_SECOND = (
    "transaction conflict", "maximum retry count", "primary key or unique", "duplicate key value", "database is locked",
    "could not serialize", "deadlock detected", "conflict on",
)  # fmt: skip


class Note(NamedTuple):
    """What a lake's snapshot says of itself."""

    run_id: str
    said: str


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All or nothing."""
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def commit(
    connection: duckdb.DuckDBPyConnection, work: Callable[[], Given], note: Note | None = None, patience: float = PATIENCE
) -> Given:
    """What ``work`` gives, once all that it wrote is in the warehouse.

    In a lake, where many write at once, nobody else committed between its first look and its end: where somebody did, all of
    it is undone and runs again. So it must change nothing but the warehouse.

    Args:
        note: names the lake's snapshot; an embedded warehouse keeps none.

    Raises:
        WarehouseHeld: others came first for ``patience`` seconds.
    """
    lake = is_lake(connection)
    started, pause, tries = time.monotonic(), _FIRST, 1
    while True:
        try:
            with transaction(connection):
                given = work()
                if lake and note is not None:
                    _name(connection, note)
            return given
        except duckdb.Error as error:
            if not lake or not came_second(error):
                raise
            waited = time.monotonic() - started
            if waited >= patience:
                raise WarehouseHeld(
                    f"others were first to commit {tries} times in {waited:.0f} s; nothing is lost, run again later "
                    f"({str(error).splitlines()[-1]})"
                ) from error
        logging.getLogger("mdmf").info("another writer committed first; trying again (%d)", tries)
        time.sleep(pause * random.uniform(0.1, 1.0))  # noqa: S311 - jitter, not a secret
        pause, tries = min(2 * pause, _LONGEST), tries + 1


def came_second(error: duckdb.Error) -> bool:
    """Whether the error says that another writer was first, so that trying again is the cure."""
    said = str(error).lower()
    return any(words in said for words in _CAME_SECOND)


def _name(connection: duckdb.DuckDBPyConnection, note: Note) -> None:
    connection.execute(
        "CALL warehouse.set_commit_message('mdmf', ?, extra_info => ?)",
        [f"run {note.run_id}: {note.said}", json.dumps({"run_id": note.run_id})],
    )
