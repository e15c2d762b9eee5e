"""`mdmf demo`: a real server, a real worker, the deployment, twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from fabricate import ROOT


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, so that the demo leaves nothing in this checkout."""
    target = tmp_path_factory.mktemp("clone")
    for name in ("flows", "tasks", "mdmf_core", "mdmf_cli", "scorers", "warehouse", "samples"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", target)
    return target


def demo(clone: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment |= {"PYTHONPATH": str(clone), "COLUMNS": "160"}
    command = [sys.executable, "-m", "mdmf_cli.main", "demo"]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_demo_cold_and_again(clone):
    first = demo(clone)
    stats = [json.loads((clone / "samples" / "laion-mini" / f"0000{n}_stats.json").read_text()) for n in (0, 1)]
    members = sum(shard["successes"] for shard in stats)
    assert f"{members} members = {members - 4} scored + 4 excluded" in first
    assert "AUROC" in first
    assert (clone / "warehouse.duckdb.report" / "index.html").exists()

    def content() -> list[tuple]:
        with duckdb.connect(str(clone / "warehouse.duckdb"), read_only=True) as connection:
            return connection.execute("SELECT key, score, run_id FROM scored ORDER BY key").fetchall()

    before = content()
    again = demo(clone)
    assert "0 to do" in again
    assert content() == before
