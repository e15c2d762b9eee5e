"""Where a warehouse is: a DuckDB file, or a lake, which is a catalog in SQLite or PostgreSQL and a folder of data files."""

import os
import re
from dataclasses import dataclass

from mdmf_core.errors import WarehouseError
from tasks.storage.filesystems import is_remote, refuse_credentials

_LAKE = "ducklake:"
_CATALOGS = ("sqlite", "postgres")
_DATA = "?data="
_PASSWORD = re.compile(r"\bpassword\s*=|://[^/@\s]*:[^/@\s]*@", re.IGNORECASE)
_FORMS = (
    "PATH.duckdb, ducklake:sqlite:PATH?data=FOLDER, or ducklake:postgres:CONNECTION?data=FOLDER, where FOLDER may be s3://..."
)


@dataclass(frozen=True)
class Embedded:
    """One DuckDB file, which one process writes at a time."""

    path: str  # absolute

    @property
    def name(self) -> str:
        return self.path

    def beside(self, suffix: str) -> str:
        """Returns the path of something that belongs to the warehouse: beside its file."""
        return self.path + suffix


@dataclass(frozen=True)
class Lake:
    """A DuckLake, which many machines write at once."""

    kind: str  # sqlite or postgres
    catalog: str  # absolute path, or libpq's words for where PostgreSQL is
    data: str  # folder, absolute or s3://, without a slash at its end

    @property
    def name(self) -> str:
        return f"{_LAKE}{self.kind}:{self.catalog}{_DATA}{self.data}"

    def beside(self, suffix: str) -> str:
        """Returns the path of something that belongs to the lake: never in its data, where compaction removes unknown files."""
        return self.data + suffix


Address = Embedded | Lake


def address(warehouse: str) -> Address:
    """Parses the address of a warehouse.

    Raises:
        WarehouseError: the address has no form that is known, or holds a password.
    """
    if not warehouse.strip():
        raise WarehouseError(f"the warehouse's address is empty: use {_FORMS}")
    if not warehouse.startswith(_LAKE):
        if is_remote(warehouse):
            raise WarehouseError(f"no warehouse can be at {warehouse!r}: use {_FORMS}")
        return Embedded(os.path.abspath(warehouse))
    _refuse_password(warehouse)
    catalog, found, data = warehouse.removeprefix(_LAKE).rpartition(_DATA)
    kind, _, place = catalog.partition(":")
    if not found or kind not in _CATALOGS or not place or not data.rstrip("/") or "&" in data:
        raise WarehouseError(f"no warehouse can be at {warehouse!r}: use {_FORMS}")
    place = os.path.abspath(place) if kind == "sqlite" else place
    return Lake(kind, place, data.rstrip("/") if is_remote(data) else os.path.abspath(data))


def _refuse_password(warehouse: str) -> None:
    """Refuses a secret in a warehouse's address, because the address is logged and recorded."""
    if _PASSWORD.search(warehouse.rpartition(_DATA)[0]):
        raise WarehouseError(
            "the address of a warehouse must not hold a password, since it is logged and recorded: give it by PGPASSWORD, or "
            "by ~/.pgpass"
        )
    refuse_credentials(warehouse.rpartition(_DATA)[2])
