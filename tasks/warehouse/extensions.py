"""DuckDB's extensions for lakes: from Python packages where they are installed, from DuckDB's own server elsewhere."""

import importlib.util
import os
from pathlib import Path
from urllib.parse import urlsplit

import duckdb

from mdmf_core.errors import WarehouseError
from tasks.warehouse.address import Lake

_SCANNERS = {"sqlite": "sqlite_scanner", "postgres": "postgres_scanner"}
_PACKAGES = "duckdb-extension-{ducklake,sqlite-scanner,postgres-scanner,httpfs}"


def load_for(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    """Loads what a lake of this kind needs, and gives its data folder the AWS variables if it is on S3.

    Raises:
        WarehouseError: an extension is not there and cannot be fetched; says what to install.
    """
    _load(connection, "ducklake")
    _load(connection, _SCANNERS[lake.kind])
    if lake.data.startswith("s3://"):
        _load(connection, "httpfs")
        connection.execute(_secret())


def _load(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    packaged = _packaged(name)
    try:
        if packaged is not None:
            connection.execute("LOAD '{}'".format(str(packaged).replace("'", "''")))
            return
        try:
            connection.execute(f"LOAD {name}")
        except duckdb.Error:
            connection.execute(f"INSTALL {name}")
            connection.execute(f"LOAD {name}")
    except duckdb.Error as error:
        raise WarehouseError(
            f"a lake needs DuckDB's extension {name}, which is not here and cannot be fetched for DuckDB {duckdb.__version__}: "
            "let this machine reach extensions.duckdb.org once, or install DuckDB 1.5.5 with its extensions from PyPI: "
            f"pip install 'mdmf[lake]', that is duckdb==1.5.5 and {_PACKAGES} ({str(error).splitlines()[0]})"
        ) from error


def _packaged(name: str) -> Path | None:
    """Returns the extension's file in its Python package, if that is installed and of this DuckDB's version."""
    found = importlib.util.find_spec(f"duckdb_extension_{name}")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    return path if path.exists() else None


def _secret() -> str:
    """Returns the SQL that gives the standard AWS credentials to DuckDB's own S3 client on this connection."""
    from botocore.session import Session  # what s3fs itself asks

    session = Session()
    found = session.get_credentials()
    options = {"REGION": session.get_config_variable("region") or "us-east-1"}
    if found is not None:
        frozen = found.get_frozen_credentials()
        options |= {"KEY_ID": frozen.access_key, "SECRET": frozen.secret_key}
        if frozen.token:
            options["SESSION_TOKEN"] = frozen.token
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    switches = ""
    if endpoint:
        parts = urlsplit(endpoint)
        options |= {"ENDPOINT": parts.netloc + parts.path.rstrip("/"), "URL_STYLE": "path"}
        switches = f", USE_SSL {parts.scheme == 'https'}"
    listed = ", ".join(f"{name} '{value.replace(chr(39), chr(39) * 2)}'" for name, value in options.items())
    return f"CREATE OR REPLACE SECRET s3 (TYPE s3, {listed}{switches})"
