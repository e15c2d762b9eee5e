"""The warehouse as an object: where it is, what lies beside it, and how it is opened."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from shlex import quote

import duckdb

from mdmf_core.errors import WarehouseError
from tasks.storage.local_files import disk_full
from tasks.warehouse.address import Address, Embedded, Lake, address
from tasks.warehouse.attach import advice, exists, open_in_turn
from tasks.warehouse.migrations import pending
from tasks.warehouse.snapshots import snapshot_of

# Seconds to wait for other processes. A landing can wait long: its parts are safe on disk.
READER_PATIENCE, WRITER_PATIENCE, LANDING_PATIENCE = 120.0, 600.0, 3600.0


@dataclass(frozen=True)
class Warehouse:
    """A DuckDB file or a lake, whether it is there already or not."""

    address: Address

    @classmethod
    def at(cls, text: str) -> "Warehouse":
        """The warehouse that an address means: the path of a file, or ``ducklake:...``.

        Raises:
            WarehouseError: the address has no form that is known, or holds a password.
        """
        return cls(address(text))

    @property
    def spelled(self) -> str:
        """The one spelling of its address, with absolute paths."""
        return self.address.name

    def __str__(self) -> str:
        return self.spelled

    @property
    def is_lake(self) -> bool:
        return isinstance(self.address, Lake)

    @property
    def parts(self) -> str:
        """The folder of its parts and plans: beside the file, or beside a lake's data, so perhaps ``s3://...``."""
        return self.address.beside(".parts")

    @property
    def leases(self) -> str:
        """The folder in which runs say what they are working on."""
        return os.path.join(self.parts, "leases")

    @property
    def report(self) -> str:
        """The folder of its report, where the user names no other."""
        return self.address.beside(".report")

    def exists(self) -> bool:
        """Tells whether the warehouse is there.

        Raises:
            WarehouseError: a lake's catalog does not answer.
        """
        return exists(self.address)

    def require(self) -> None:
        """Raises WarehouseError where the warehouse is not there."""
        if not self.exists():
            raise WarehouseError(
                f"no warehouse at {self.spelled}; run `mdmf curate SOURCE --warehouse {quote(self.spelled)}` first"
            )

    @contextmanager
    def connect(
        self, read_only: bool = False, patience: float | None = None, as_of: str | None = None, any_version: bool = False
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Opens the warehouse for the length of the block. While others hold an embedded one, this waits its turn and says so.

        Args:
            read_only: for questions; otherwise a warehouse that is not there is made.
            patience: seconds to wait at most; by default two minutes to read and ten to write.
            as_of: shows what a lake held when this run had ended (or at the snapshot of this number); read-only.
            any_version: a reader takes the schema as it is; otherwise it must be of this version.

        Raises:
            WarehouseError: it is not there (read-only), no DuckDB file, not writable, full, or (read-only) of another version;
                a lake lacks its extensions, or has no snapshot of the run.
            WarehouseHeld: others held it for longer than ``patience``.
        """
        if read_only:
            self.require()
        else:
            self._make_folder()
        if patience is None:
            patience = READER_PATIENCE if read_only else WRITER_PATIENCE
        snapshot = self._snapshot(patience, as_of) if as_of is not None else None
        connection = open_in_turn(self.address, read_only, patience, snapshot)
        try:
            if read_only and as_of is None and not any_version:
                self._require_this_version(connection)
            yield connection
        except duckdb.Error as error:
            if "No space left" not in str(error):
                raise
            raise disk_full(self.spelled, str(error)) from error
        finally:
            connection.close()

    def _require_this_version(self, connection: duckdb.DuckDBPyConnection) -> None:
        missing = pending(connection)
        if missing:
            raise WarehouseError(
                f"warehouse {self.spelled} was written by an earlier version (it lacks {', '.join(missing)}); "
                f"run `mdmf migrate --warehouse {quote(self.spelled)}`"
            )

    def _make_folder(self) -> None:
        """Makes the folder that the DuckDB file or a lake's SQLite catalog will lie in."""
        where = self.address
        file = where.path if isinstance(where, Embedded) else where.catalog if where.kind == "sqlite" else None
        if file is None:
            return
        try:
            os.makedirs(os.path.dirname(file), exist_ok=True)
        except OSError as error:
            raise WarehouseError(f"cannot open warehouse {self.spelled}: {advice(str(error))} ({error})") from error

    def _snapshot(self, patience: float, as_of: str) -> int:
        if not self.is_lake:
            raise WarehouseError(
                f"{self.spelled} is an embedded warehouse, which knows only its present; --as-of asks a lake (ducklake:...). "
                "`SELECT * FROM scores WHERE run_id = ...` finds what a run scored"
            )
        connection = open_in_turn(self.address, True, patience)
        try:
            return snapshot_of(connection, as_of)
        finally:
            connection.close()
