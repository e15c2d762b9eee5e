"""Runs that are killed or race each other leave the same warehouse as one that nobody disturbs.

A sample of what ``make chaos`` does in full.
"""

import os
import signal
from pathlib import Path
from uuid import UUID

import pytest
from harness import Chaos, look
from prefect import get_client
from prefect.settings import PREFECT_API_URL

from flows.reaper import reaper
from mdmf import to_pandas as query
from tasks.parts.leases import dead_owners
from tasks.runs.dead_runs import reap
from tasks.warehouse.warehouse import Warehouse

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def chaos(prefect_server, tiny_scorer, tiny_bank, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
        patch.setenv("PREFECT_LOGGING_LEVEL", "ERROR")
        made = Chaos(tmp_path_factory.mktemp("chaos") / "c", tiny_scorer, tiny_bank)
        made.prepare()
        yield made


def test_killed_around_every_kind_of_step(chaos):
    kinds = {name: number for number, name in enumerate(chaos.steps)}
    assert {"link held", "replace scores", "BEGIN", "COMMIT", "remove held", "remove owners"} <= set(kinds)
    for step in kinds.values():
        for after in (False, True):
            trial = chaos.killed_at_step(step, after)
            assert trial.died, trial
            assert (trial.same, trial.lost, trial.twice) == (True, 0, 0), trial


def test_killed_at_random_moments(chaos):
    trials = [chaos.killed_at_moment(number) for number in range(8)]
    assert any(trial.died for trial in trials)
    assert [trial for trial in trials if not trial.same or trial.lost or trial.twice] == []


def test_a_digest_that_cannot_fail_would_prove_nothing(chaos):
    warehouse = chaos.run("control")
    assert look(warehouse)[0] == chaos.digest
    Path(warehouse).unlink()
    (chaos.folder / "source" / "00000.tar").rename(chaos.folder / "hidden.tar")
    try:
        chaos.run("control")
        digest, members, _ = look(warehouse)
        assert digest != chaos.digest
        assert members < chaos.members
    finally:
        (chaos.folder / "hidden.tar").rename(chaos.folder / "source" / "00000.tar")


def test_four_runs_at_once_on_twenty_shards_do_each_of_them_once(chaos):
    race = chaos.race("race", runs=4, shards=20, killed=0)
    assert (race.same, race.lost, race.twice) == (True, 0, 0)
    assert race.parts_written == 20


def test_four_runs_at_once_of_which_two_are_killed(chaos):
    race = chaos.race("mortal", runs=4, shards=20, killed=2)
    assert (race.same, race.lost, race.twice) == (True, 0, 0)


def test_the_reaper_closes_what_a_killed_run_left_open(chaos):
    warehouse, process = chaos.at_work("reaped")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (run,) = query(warehouse, "SELECT run_id::VARCHAR AS run_id FROM runs")["run_id"]
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(run)).state.is_running()
        assert reaper(warehouse) == [run]
        assert client.read_flow_run(UUID(run)).state.is_crashed()
        assert reaper(warehouse) == []
    found = query(warehouse, "SELECT state, finished_at IS NOT NULL AS ended, message FROM runs").iloc[0]
    assert (found["state"], found["ended"]) == ("crashed", True)
    assert dead_owners(Warehouse.at(warehouse).leases) == []
    assert chaos.judged("reaped", warehouse, died=True).same


def test_the_reaper_leaves_a_living_run_alone(chaos):
    warehouse, process = chaos.at_work("living")
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert reap(Warehouse.at(warehouse)) == []
    finally:
        os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert query(warehouse, "SELECT state FROM runs")["state"][0] == "completed"
