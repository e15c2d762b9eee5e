"""A corpus curated by child runs on a real server and worker: each portion once, whoever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fabricate import ROOT, landed, write_shard
from harness import look

from mdmf import to_pandas as query
from mdmf_cli.local_prefect import LocalPrefect, local_prefect
from tasks.collections.listing import list_shards
from tasks.parts.part_files import part_path
from tasks.runs.fan_out.portions import corpus_folder
from tasks.warehouse.warehouse import Warehouse

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    with local_prefect(ROOT, tmp_path_factory.mktemp("fan-out") / "prefect") as started:
        started.environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "chaos")]
        )
        started.run("--no-prompt", "deploy", "--name", "laion", "--name", "laion-portion")
        yield started


class Corpus:
    """Shards, a warehouse, and parents that curate the one into the other."""

    def __init__(self, folder: Path, prefect: LocalPrefect, scorer: str, bank: str, shards: int) -> None:
        self.folder, self.prefect, self.warehouse = folder, prefect, str(folder / "w.duckdb")
        self.source = f"{folder}/source/*.tar"
        (folder / "source").mkdir()
        for number in range(shards):
            write_shard(folder / "source" / f"{number:05d}.tar", range(10 * number, 10 * number + 2))
        self.parameters = {
            "source": self.source, "warehouse": self.warehouse, "scorer": scorer, "bank": bank, "shards_per_task": 2,
            "device": "cpu", "decode_threads": 1, "runs_at_once": 2,
        }  # fmt: skip

    def parent(self, **parameters: object) -> subprocess.Popen[str]:
        script = [sys.executable, str(ROOT / "tests" / "chaos" / "parent.py"), json.dumps(self.parameters | parameters)]
        return subprocess.Popen(
            script, env=self.prefect.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def children(self) -> list[dict[str, Any]]:
        """Asks the server for the child runs of this warehouse's plans."""
        found = self.prefect.api("flow_runs/filter", {"flows": {"name": {"any_": ["curate-portion"]}}, "sort": "ID_DESC"})
        return [run for run in found if run["parameters"]["settings"]["warehouse"] == self.warehouse]

    def owners(self) -> dict[str, int]:
        """Gives the process ids of the runs that are at work, by run."""
        found = {}
        for path in (Path(Warehouse.at(self.warehouse).leases) / "owners").glob("*.json"):
            found[path.name.partition(".")[0]] = json.loads(path.read_text())["pid"]
        return found

    def kill(self, chosen: str) -> None:
        """Kills the child whose name holds these words, once it is at work."""
        while True:
            owners = self.owners()
            for run in self.children():
                if chosen in run["name"] and run["id"] in owners:
                    os.kill(owners[run["id"]], signal.SIGKILL)
                    return
            time.sleep(0.02)


def result_of(parent: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = parent.communicate()
    assert parent.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def test_a_parent_that_is_killed_is_succeeded_and_no_portion_is_started_twice(prefect, tmp_path, setup, tiny_scorer, tiny_bank):
    corpus = Corpus(tmp_path, prefect, tiny_scorer, tiny_bank, shards=12)
    first = corpus.parent(shards_per_run=3)
    while not [run for run in corpus.children() if run["state_type"] == "RUNNING"]:
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.kill()
    first.communicate()
    started = {run["id"] for run in corpus.children()}
    assert 1 <= len(started) <= 2
    result = result_of(corpus.parent(shards_per_run=5))  # the plan's own size holds
    assert (result["resumed"], result["portions"], result["given_up"], result["unfinished"]) == (True, 4, 0, 0)
    assert (result["complete"], result["scored"], result["members"], result["shards"]) == (12, 24, 24, 12)
    runs = corpus.children()
    assert len(runs) == len({run["idempotency_key"] for run in runs}) == 4
    assert started <= {run["id"] for run in runs}
    assert {run["state_type"] for run in runs} == {"COMPLETED"}
    alone = landed(tmp_path / "alone.duckdb", corpus.source, setup, tiny_scorer)
    assert look(corpus.warehouse) == look(alone)
    assert list(Path(corpus_folder(Warehouse.at(corpus.warehouse).parts)).iterdir()) == []
    again = result_of(corpus.parent(shards_per_run=3))
    assert (again["resumed"], again["portions"], again["already_complete"]) == (False, 0, 12)


def test_a_dead_child_is_started_again_and_one_that_always_fails_costs_no_other(
    prefect, tmp_path, setup, tiny_scorer, tiny_bank
):
    corpus = Corpus(tmp_path, prefect, tiny_scorer, tiny_bank, shards=6)
    (shard, *_) = list_shards(corpus.source, 1000)
    part = Path(part_path(Warehouse.at(corpus.warehouse).parts, shard, setup.key))
    part.parent.mkdir(parents=True)
    part.write_bytes(b"PAR1 not really")
    parent = corpus.parent(shards_per_run=2, attempts=2)
    corpus.kill("portion 1 attempt 1")
    _, err = parent.communicate()
    assert parent.returncode != 0
    assert "1 of 3 portions were given up; first: given up after 2 attempts; portion 0, attempt 2" in err
    assert "1 of 2 shards failed" in err
    names = sorted(run["name"].partition(" ")[2].partition(":")[0] for run in corpus.children())
    assert names == [f"portion {portion} attempt {n}" for portion, n in ((0, 1), (0, 2), (1, 1), (1, 2), (2, 1))]
    assert len(query(corpus.warehouse, "SELECT url FROM accounting WHERE state = 'complete'")) == 5
    (row,) = query(corpus.warehouse, "SELECT state, message FROM runs WHERE flow = 'curate-corpus'").to_dict("records")
    assert row["state"] == "failed"
    assert corpus.owners().keys() == {run["id"] for run in corpus.children() if run["state_type"] == "CRASHED"}
    part.unlink()
    after = result_of(corpus.parent(shards_per_run=2))
    assert (after["resumed"], after["complete"], after["already_complete"], after["portions"]) == (False, 1, 5, 1)
