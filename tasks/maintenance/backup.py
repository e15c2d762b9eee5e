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
from tasks.storage.local_files import atomic_path
from tasks.warehouse.address import Lake, address, parts_folder
from tasks.warehouse.attach import STORAGE_VERSION, quoted
from tasks.warehouse.connect import WRITER_PATIENCE, opened
from tasks.warehouse.migrations import pending


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


def backup(warehouse: str, out: str, force: bool = False) -> Copied:
    """Copies the warehouse to ``out``, which appears whole or not at all; waits while others write.

    Raises:
        WarehouseError: no warehouse there, ``out`` exists and ``force`` is not set, or the copy differs from the original.
    """
    _require_file(warehouse, "back it up with its catalog's own tools, and its data folder as it is")
    _require_file(out, "a backup is one file")
    path = os.path.abspath(out)
    if os.path.exists(path) and os.path.exists(warehouse) and os.path.samefile(path, warehouse):
        raise WarehouseError(f"{out} is the warehouse itself; name another file")
    if os.path.exists(path) and not force:
        raise WarehouseError(f"{out} exists; name another file, or write over it with --force")
    with _copied(warehouse, path) as copied:
        pass
    return copied


def restore(saved: str, warehouse: str, force: bool = False) -> Restored:
    """Puts a backup in the place of the warehouse; one that is there is kept as ``WAREHOUSE.before-restore``.

    Raises:
        WarehouseError: ``saved`` is no warehouse, of a newer version or damaged; or a warehouse is there and ``force`` is not
            set, or somebody holds it.
    """
    _require_file(saved, "a backup is one file")
    _require_file(warehouse, "restore it with its catalog's own tools")
    if not os.path.exists(saved):
        raise WarehouseError(f"no backup at {saved}")
    path = os.path.abspath(warehouse)
    there = os.path.exists(path)
    earlier = path + ".before-restore"
    if there and os.path.samefile(path, saved):
        raise WarehouseError(f"{saved} is the warehouse itself; name another file")
    if there and not force:
        raise WarehouseError(f"{warehouse} exists; restore to another path, or with --force, which keeps it as {earlier}")
    with ExitStack() as stack:
        if there:
            _hold(path, stack)
        copied = stack.enter_context(_copied(saved, path))
        if there:
            _keep(path, earlier)
    with opened(path, read_only=True) as connection:
        missing = pending(connection)
        listed = list_parts(parts_folder(path))
        not_landed = [] if missing else unknown_parts(parts_folder(path), listed, holdings(connection))
    return Restored(copied, earlier if there else None, not_landed, missing)


def _require_file(warehouse: str, instead: str) -> None:
    if isinstance(address(warehouse), Lake):
        raise WarehouseError(f"{warehouse} is a lake: {instead}. `mdmf warehouse copy` moves rows between a lake and a file")


@contextmanager
def _copied(source: str, target: str) -> Iterator[Copied]:
    """A compared copy beside ``target``; it takes that name when the block ends well."""
    with atomic_path(target) as temporary, _without_log(temporary):
        with opened(source, read_only=True, patience=WRITER_PATIENCE) as connection:
            pending(connection)  # refuses a newer one, and what is none
            tables = table_digests(connection)
            if "shards" not in tables:
                raise WarehouseError(f"{source} is no mdmf warehouse: it is empty")
            connection.execute(f"ATTACH {quoted(temporary)} AS copy (STORAGE_VERSION '{STORAGE_VERSION}')")
            connection.execute("COPY FROM DATABASE warehouse TO copy")
            connection.execute("DETACH copy")
        with opened(temporary, read_only=True) as connection:
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
    """Keeps everybody else out of a warehouse until the stack is left; a damaged one is in nobody's use."""
    try:
        with opened(path, read_only=False):  # what its log holds is in the file when this closes
            pass
        stack.enter_context(opened(path, read_only=False))
    except WarehouseHeld:
        raise
    except WarehouseError:
        return


def _keep(path: str, earlier: str) -> None:
    """A second name for the warehouse, so that the first can be given to another file without a moment in between."""
    if os.path.exists(earlier):
        if not os.path.samefile(earlier, path):
            raise WarehouseError(f"{earlier} exists from an earlier restore; move it away first")
        os.remove(earlier)  # of a restore that was killed just here
    os.link(path, earlier)
    if os.path.exists(path + ".wal"):  # of a damaged file; left there, it would be played into the restored one
        os.replace(path + ".wal", earlier + ".wal")
