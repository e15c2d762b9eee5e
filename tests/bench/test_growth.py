"""Growth by hand: what is paid once counts on neither side."""

import pytest
from fabricate import write_folder

from benchmarks.end_to_end.growth import CPU, growth_records
from benchmarks.harness.corpora import photographs, write_shards
from benchmarks.harness.stub import FlowRun, run_flow, stub_kit


def flow_run(images: int, seconds: float, peak: float) -> FlowRun:
    return FlowRun(wall=seconds + 9, scoring=seconds, landing=0.1, overhead=0.2, cpu=seconds / 2, scored=images, peak_mb=peak)


def test_a_fixed_cost_is_no_growth_and_a_dearer_image_is():
    flat = {size: flow_run(size, 5 + 0.01 * size, 400) for size in (100, 1000, 10_000)}
    time, memory = growth_records("image", "one shard", flat, lambda run: run.scoring)
    assert (time.ratio, memory.ratio) == pytest.approx((1.0, 1.0))
    assert time.parts["each further"].value == pytest.approx(10)  # ms
    assert time.parts[CPU].value == pytest.approx(5)
    assert (time.parts["1,000 images"].value, memory.parts["10,000 images"].value) == (15, 400)
    assert (time.met, memory.met) == (True, True)
    grown = flat | {10_000: flow_run(10_000, 15 + 0.02 * 9000, 600)}
    time, memory = growth_records("image", "one shard", grown, lambda run: run.scoring)
    assert (time.ratio, memory.ratio) == pytest.approx((2.0, 1.5))
    assert (time.met, memory.met) == (False, False)
    assert memory.parts["each further"].value > 0


def test_the_stub_is_a_whole_kit_of_its_own():
    setup = stub_kit()
    assert setup.scorer.scorer_id == setup.bank.scorer_id == setup.calibration.scorer_id
    assert setup.calibration.bank_id == setup.bank.bank_id
    assert setup.scorer.crops.size == 224


def test_the_real_flow_runs_on_the_stub_and_its_time_adds_up(prefect_server, tmp_path):
    write_shards(tmp_path / "shards", photographs(write_folder(tmp_path / "data", range(4)), 6), 3)
    found = run_flow(tmp_path / "shards", tmp_path / "w.duckdb", 2, stub_kit())
    assert found.scored == 6
    assert min(found.scoring, found.landing, found.overhead, found.cpu, found.peak_mb) > 0
    assert found.overhead + max(found.scoring, found.landing) <= found.wall <= found.overhead + found.scoring + found.landing
