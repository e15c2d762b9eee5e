"""docs/scale-out.md from top to bottom: from one process to PostgreSQL, a lake on S3, child runs and Ray; the same content.

Write its outputs anew: PYTHONPATH=$PWD/tests/helpers:$PWD/.venv/duckdb-1.5 .venv/bin/python tests/docs/test_scale_out.py
"""

import os
import re
import secrets
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import s3fs
from clusters import free_port
from fabricate import ROOT
from lakes import needs_lakes
from postgres_server import postgres_server, why_not
from replay import masked, run, transcripts, with_exports, written_anew
from s3_server import KEY, SECRET, conditional_s3

PAGE = ROOT / "docs" / "scale-out.md"
_MARK = "MDMF_WALK"  # by which the processes are known that the commands leave running

pytestmark = [pytest.mark.long, needs_lakes, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


@contextmanager
def hosts(folder: Path) -> Iterator[dict[str, str]]:
    """Values for the page's variables: PostgreSQL, and S3 with the corpus. What the commands started ends with the block."""
    mark = str(uuid.uuid4())
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_server(folder / "postgres", "max_connections=200"))
        s3 = stack.enter_context(conditional_s3())
        port, ray = free_port(), free_port()
        given = {
            "PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": postgres.user, "PGPASSWORD": postgres.password,
            "AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1", "PREFECT_SERVER_DATABASE_PORT": str(postgres.port),
            "PREFECT_SERVER_DATABASE_USER": postgres.user, "PREFECT_SERVER_DATABASE_PASSWORD": postgres.password,
            "RAY_ADDRESS": f"127.0.0.1:{ray}", "RAY_PORT": str(ray), "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }  # fmt: skip
        store = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=s3)
        for bucket in ("corpus", "results"):
            store.mkdir(bucket)
        for tar in sorted((ROOT / "samples" / "laion-mini").iterdir()):
            store.put_file(str(tar), f"corpus/{tar.name}")
        for name in ("prefect.yaml", "deploy"):
            (folder / name).symlink_to(ROOT / name)
        os.environ[_MARK] = mark
        try:
            yield given
        finally:
            del os.environ[_MARK]
            _end(mark)


def _end(mark: str) -> None:
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark:
                process.kill()
        except psutil.Error:
            continue


def test_the_page_from_top_to_bottom(tmp_path):
    contents = []
    with hosts(tmp_path) as variables:
        for command, expected, exported in with_exports(PAGE, variables):
            printed = run(command, tmp_path, tmp_path, exported)
            assert masked(printed) == masked(expected), f"$ {command}\n{printed}"
            contents += re.findall(r"^content ([0-9a-f]{64})$", printed, re.MULTILINE)
    assert len(contents) == 4
    assert len({*contents}) == 1


def test_the_walk_has_fewer_than_ten_commands():
    assert len(transcripts(PAGE)) < 10


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, hosts(Path(name)) as variables:
        written_anew(PAGE, Path(name), Path(name), variables)
