"""Writing to a warehouse: all or nothing, and in a lake again when another writer came first."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import duckdb
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from mdmf_core.errors import WarehouseHeld
from tasks.warehouse.attach import is_lake

Given = TypeVar("Given")
_log = logging.getLogger("mdmf")
# Seconds for which a commit is tried again. One that lands can wait long: its parts are safe.
PATIENCE = 600.0
_FIRST, _LONGEST = 0.05, 5.0  # seconds between two tries, at most
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
    """Runs the block in one transaction, which is rolled back if the block raises."""
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

    def attempt() -> Given:
        with transaction(connection):
            given = work()
            if lake and note is not None:
                _name(connection, note)
        return given

    tries = Retrying(
        retry=retry_if_exception(lambda error: lake and came_second(error)),
        wait=wait_random_exponential(multiplier=_FIRST, max=_LONGEST),
        stop=stop_after_delay(patience),
        before_sleep=lambda state: _log.info("another writer committed first; trying again (%d)", state.attempt_number),
    )
    try:
        return tries(attempt)
    except RetryError as error:
        last, waited = error.last_attempt, tries.statistics["delay_since_first_attempt"]
        raise WarehouseHeld(
            f"others were first to commit {last.attempt_number} times in {waited:.0f} s; nothing is lost, run again later "
            f"({str(last.exception()).splitlines()[-1]})"
        ) from last.exception()


def came_second(error: BaseException) -> bool:
    """Whether the error says that another writer was first, so that trying again is the cure."""
    said = str(error).lower()
    return isinstance(error, duckdb.Error) and any(words in said for words in _CAME_SECOND)


def _name(connection: duckdb.DuckDBPyConnection, note: Note) -> None:
    connection.execute(
        "CALL warehouse.set_commit_message('mdmf', ?, extra_info => ?)",
        [f"run {note.run_id}: {note.said}", json.dumps({"run_id": note.run_id})],
    )
