"""What one H100 would do, on paper: the arithmetic by hand."""

import pytest

from benchmarks.end_to_end.estimate import VITS, Measured, estimates, measured, table
from benchmarks.end_to_end.growth import CPU
from benchmarks.harness.frame import Better, Part, Record, Result
from benchmarks.harness.stub import covered

COST = Measured(decode=2.0, features=10.0, scores=4.0, process=0.1)


def test_operations_are_those_that_timm_states_for_these_models():
    # Billions of multiply-adds at 224 px: 17.6 for ViT-B/16; 81.1 for ViT-L/14.
    assert [round(vit.flop / 2e9, 1) for vit in VITS] == [17.6, 81.0]


def test_the_slowest_side_decides_and_is_named():
    base, large, embedded = estimates(COST)
    assert base.limits["decode-bound"] == pytest.approx(15 / 0.002)
    assert (base.bound, base.rate) == ("decode-bound", 7500)
    assert large.bound == "backbone-bound"
    assert large.rate == pytest.approx(0.4 * 989e12 / (162.0e9 + 0.66e9), rel=0.01)
    assert (embedded.bound, embedded.rate) == ("core-bound", 1000)
    assert estimates(Measured(2.0, 10.0, 4.0, process=0.5))[0].bound == "process-bound"


def test_the_table_shows_the_arithmetic():
    first = table(COST).splitlines()[2]
    assert first.startswith(
        "| CLIP ViT-B/16 | **7,500** | 4 h | decode-bound | decode 7,500 = 15 cores / 2.00 ms; backbone 11,"
    )
    assert first.endswith("process 10,000 = 1 core / 0.10 ms |")


def test_costs_come_from_the_committed_results(tmp_path):
    def write(name: str, record: str, parts: dict[str, float]) -> None:
        shown = {part: Part(value, "ms") for part, value in parts.items()}
        Result(name, {}, 1.0, [Record(record, 1.0, Better.HIGHER, 1.0, 1.0, 1, shown)]).write(tmp_path)

    write("embedded", "whole path, images 256 px, as LAION", {"decode": 2.0, "features": 10.0, "scores": 4.0, "ideal": 9.0})
    write("growth", "seconds of each further image, late over early", {CPU: 0.1})
    assert measured(tmp_path) == COST


def test_time_that_is_covered_twice_counts_once():
    assert covered([(0.0, 4.0), (1.0, 2.0), (3.0, 5.0), (7.0, 8.0)]) == 6.0
    assert covered([]) == 0.0
