"""No bank may hold images that the user expelled or that reviewers call generated."""

from mdmf_core.errors import ArtifactError
from tasks.storage.checked_reads import read_bytes
from tasks.warehouse.warehouse import Warehouse


def expelled(path: str | None, storage_block: str | None) -> set[str]:
    """The sha256 values in a text or CSV file: the first field of every line that is one.

    Raises:
        ArtifactError: the file has no such line.
    """
    if path is None:
        return set()
    fields = [line.split(",")[0].strip().strip('"').lower() for line in read_bytes(path, storage_block).decode().splitlines()]
    sha256s = {field for field in fields if len(field) == 64}
    if not sha256s:
        raise ArtifactError(f"{path}: no line starts with a sha256")
    return sha256s


def reviewed_generated(warehouse: Warehouse | None) -> frozenset[str]:
    """The sha256 of every image whose newest verdict is `generated`; none without a warehouse or without reviews in it."""
    if warehouse is None or not warehouse.exists():
        return frozenset()
    with warehouse.connect(read_only=True, any_version=True) as connection:  # of whatever version
        if not connection.execute(
            "SELECT 1 FROM duckdb_tables() WHERE (database_name, table_name) = ('warehouse', 'reviews')"
        ).fetchall():
            return frozenset()
        rows = connection.execute("SELECT sha256 FROM reviewed WHERE verdict = 'generated'").fetchall()
    return frozenset(sha256 for (sha256,) in rows)
