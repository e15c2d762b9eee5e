"""The model of a corpus on its way through a fleet: cases counted by hand, and what must hold whatever the costs."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale import model

COSTS = model.Costs(
    before=1, list_shard=0.5, run_start=3, task=0.25, server_task=0, shard=1, image=0.1, land_group=2, land_shard=0.5, after=4
)


def test_one_worker_without_overlap_takes_the_sum_of_its_steps() -> None:
    found = model.simulate(COSTS, model.Fleet(shards_per_task=2, shards_per_run=4, overlap=False), 4, 10)
    # before 1, listing 4 x 0.5, start 3, two groups of (task 0.25 + 2 shards x (1 + 10 x 0.1) + landing 2 + 2 x 0.5), after 4
    assert found.seconds == pytest.approx(1 + 2 + 3 + 2 * (0.25 + 4 + 3) + 4)
    assert found.scoring == pytest.approx(8)


def test_landing_hides_behind_scoring() -> None:
    found = model.simulate(COSTS, model.Fleet(shards_per_task=2, shards_per_run=4), 4, 10)
    # the first landing runs beside the second group's scoring
    assert found.seconds == pytest.approx(1 + 2 + 3 + 2 * 4.25 + 3 + 4)


def test_one_committer_lets_many_workers_wait() -> None:
    costs = replace(COSTS, list_shard=0, image=0, land_shard=10)
    found = model.simulate(costs, model.Fleet(workers=50, shards_per_task=1, shards_per_run=1), 50, 10)
    assert found.seconds >= 50 * 12
    assert found.busy["committer"] > 0.95


def test_a_lake_that_was_overtaken_begins_again() -> None:
    costs = replace(COSTS, list_shard=0, prepare=1, commit=1, conflict_share=1.0)
    found = model.simulate(costs, model.Fleet(workers=2, shards_per_task=1, shards_per_run=1, lake=True), 2, 10)
    assert (found.commits, found.conflicts) == (2, 1)
    assert model.simulate(replace(costs, conflict_share=0), model.Fleet(2, 1, 1, True), 2, 10).conflicts == 0


def test_of_many_that_commit_at_once_one_lands_at_a_time() -> None:
    costs = replace(COSTS, list_shard=0, image=0, prepare=1, commit=0.5, conflict_share=1.0)
    found = model.simulate(costs, model.Fleet(workers=5, shards_per_task=1, shards_per_run=1, lake=True), 5, 10)
    # All begin together, at 3 + 0.25 + 1. Of n that try, the first lands and n - 1 begin again when their turn has shown it:
    # 4 + 3 + 2 + 1 in vain.
    assert found.conflicts == 10


def test_a_death_costs_the_shard_that_it_strikes_and_the_time_to_notice() -> None:
    fleet = model.Fleet(shards_per_task=10, shards_per_run=100, hours_between_deaths=50 / 3600)
    calm = model.simulate(COSTS, replace(fleet, hours_between_deaths=float("inf")), 100, 10)
    found = model.simulate(COSTS, fleet, 100, 10)
    assert found.deaths > 0
    assert 0 < found.wasted <= 2 * found.deaths  # a shard takes 2 s
    assert found.scoring == pytest.approx(calm.scoring)
    assert found.seconds >= calm.seconds + 60 * found.deaths


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 10), st.integers(1, 20), st.booleans())
def test_no_resource_is_busier_than_all_the_time(shards: int, workers: int, per_task: int, per_run: int, lake: bool) -> None:
    costs = replace(COSTS, server_task=0.3, prepare=0.5, commit=0.2, conflict_share=0.5, straggler_sigma=0.5)
    found = model.simulate(costs, model.Fleet(workers, per_task, per_run, lake), shards, 3)
    assert all(0 <= share <= 1 + 1e-9 for share in found.busy.values())
    assert found.seconds >= costs.before + costs.after + shards * costs.list_shard
    assert found == model.simulate(costs, model.Fleet(workers, per_task, per_run, lake), shards, 3)


@pytest.mark.parametrize("shards", [0, -1])
def test_nothing_to_do_is_refused(shards: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        model.simulate(COSTS, model.Fleet(), shards, 1)
