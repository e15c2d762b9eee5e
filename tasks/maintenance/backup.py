"""A faithful copy of a warehouse in one file, and the way back."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mdmf_core.errors import WarehouseError, WarehouseHeld
from tasks.maintenance.content_digest import content_digest, table_digests
from tasks.maintenance.recount import holdings
from tasks.maintenance.stray_parts import unknown_parts
from tasks.parts.part_files import list_parts
from tasks.storage.publishing import whole_file
from tasks.warehouse.attach import STORAGE_VERSION, quoted
from tasks.warehouse.migrations import pending
from tasks.warehouse.warehouse import WRITER_PATIENCE, Warehouse


@dataclass(frozen=True)
class Copied:
    """A copy that was compared with its original, row by row."""

    path: str
    size_bytes: int
    content_digest: str


@dataclass(frozen=True)
class Restored:
    """A warehouse as it was when its backup was made."""

    copied: Copied
    earlier: str | None  # where the warehouse lies that was there before
    not_landed: list[str]  # parts finished after the backup
    missing: list[str]  # migrations that it still lacks


def backup(warehouse: Warehouse, out: str, force: bool = False) -> Copied:
    """Copies the warehouse to ``out``, which appears whole or not at all; waits while others write.

    Raises:
        WarehouseError: no warehouse there, ``out`` exists and ``force`` is not set, or the copy differs from the original.
    """
    original = _file(warehouse, "back it up with its catalog's own tools, and its data folder as it is")
    path = _file(Warehouse.at(out), "a backup is one file")
    if os.path.exists(path) and os.path.exists(original) and os.path.samefile(path, original):
        raise WarehouseError(f"{out} is the warehouse itself; name another file")
    if os.path.exists(path) and not force:
        raise WarehouseError(f"{out} exists; name another file, or write over it with --force")
    with _copied(original, path) as copied:
        pass
    return copied


def restore(saved: str, warehouse: Warehouse, force: bool = False) -> Restored:
    """Puts a backup in the place of the warehouse; one that is there is kept as ``WAREHOUSE.before-restore``.

    Raises:
        WarehouseError: ``saved`` is no warehouse, of a newer version or damaged; or a warehouse is there and ``force`` is not
            set, or somebody holds it.
    """
    backup_file = _file(Warehouse.at(saved), "a backup is one file")
    path = _file(warehouse, "restore it with its catalog's own tools")
    if not os.path.exists(backup_file):
        raise WarehouseError(f"no backup at {saved}")
    there = os.path.exists(path)
    earlier = path + ".before-restore"
    if there and os.path.samefile(path, backup_file):
        raise WarehouseError(f"{saved} is the warehouse itself; name another file")
    if there and not force:
        raise WarehouseError(f"{warehouse} exists; restore to another path, or with --force, which keeps it as {earlier}")
    with ExitStack() as stack:
        if there:
            _hold(path, stack)
        copied = stack.enter_context(_copied(backup_file, path))
        if there:
            _keep(path, earlier)
    with warehouse.connect(read_only=True, any_version=True) as connection:
        missing = pending(connection)
        listed = list_parts(warehouse.parts)
        not_landed = [] if missing else unknown_parts(warehouse.parts, listed, holdings(connection))
    return Restored(copied, earlier if there else None, not_landed, missing)


def _file(warehouse: Warehouse, instead: str) -> str:
    """Returns the path of an embedded warehouse; for a lake, raises WarehouseError that says what to do instead."""
    if warehouse.is_lake:
        raise WarehouseError(f"{warehouse} is a lake: {instead}. `mdmf warehouse copy` moves rows between a lake and a file")
    return warehouse.spelled


@contextmanager
def _copied(source: str, target: str) -> Iterator[Copied]:
    """Yields a compared copy of ``source`` beside ``target``; it takes that name when the block ends well."""
    with whole_file(target) as temporary, _without_log(temporary):
        with Warehouse.at(source).connect(read_only=True, patience=WRITER_PATIENCE, any_version=True) as connection:
            pending(connection)  # refuses a newer one, and what is none
            tables = table_digests(connection)
            if "shards" not in tables:
                raise WarehouseError(f"{source} is no mdmf warehouse: it is empty")
            connection.execute(f"ATTACH {quoted(temporary)} AS copy (STORAGE_VERSION '{STORAGE_VERSION}')")
            connection.execute("COPY FROM DATABASE warehouse TO copy")
            connection.execute("DETACH copy")
        with Warehouse.at(temporary).connect(read_only=True, any_version=True) as connection:
            different = {name for name, _ in table_digests(connection).items() ^ tables.items()}
            digest = content_digest(connection)
        if different:
            raise WarehouseError(f"the copy of {source} differs from it in {', '.join(sorted(different))}; nothing was written")
        yield Copied(target, os.path.getsize(temporary), digest)


@contextmanager
def _without_log(path: str) -> Iterator[None]:
    """Removes what a copy that failed leaves of its log."""
    try:
        yield
    finally:
        if os.path.exists(path + ".wal"):
            os.remove(path + ".wal")


def _hold(path: str, stack: ExitStack) -> None:
    """Keeps all others out of a warehouse until the stack is left. A damaged warehouse cannot be opened, so nobody uses it."""
    try:
        with Warehouse.at(path).connect():  # what its log holds is in the file when this closes
            pass
        stack.enter_context(Warehouse.at(path).connect())
    except WarehouseHeld:
        raise
    except WarehouseError:
        return


def _keep(path: str, earlier: str) -> None:
    """Gives the warehouse a second name, so that its first can pass to another file without a moment in between."""
    if os.path.exists(earlier):
        if not os.path.samefile(earlier, path):
            raise WarehouseError(f"{earlier} exists from an earlier restore; move it away first")
        os.remove(earlier)  # of a restore that was killed just here
    os.link(path, earlier)
    if os.path.exists(path + ".wal"):  # of a damaged file; left there, it would be played into the restored one
        os.replace(path + ".wal", earlier + ".wal")
