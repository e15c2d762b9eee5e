"""The frame of the benchmarks: ratios, comparison with a baseline, table. Nothing here is timed."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.harness.compare import MARKS, between_marks, changes, described, read_results, table
from benchmarks.harness.frame import Better, Part, Record, Result, interleaved, ratio_record, slope

MACHINE = {"cpu": "a CPU", "cores": 2, "memory_gb": 8, "system": "Linux 6", "python": "3.11", "versions": {"torch": "2"}}
FASTER = Record("speed", 1.3, Better.HIGHER, 1.2, 1.4, 5, {"ours": Part(1234.5, "images/s")}, target=1.2, did="100 images")
SMALLER = Record("memory", 0.8, Better.LOWER, 0.8, 0.8, 1)


def result(*records: Record, name: str = "peers") -> Result:
    return Result(name, MACHINE, 1.0, list(records))


def test_sides_take_turns_and_the_warming_round_is_thrown_away():
    calls: list[str] = []

    def side(name: str, value: float) -> float:
        calls.append(name)
        return value * len(calls)

    found = interleaved({"a": lambda: side("a", 1.0), "b": lambda: side("b", 10.0)}, 2, lambda line: None)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert found == {"a": [3.0, 5.0], "b": [40.0, 60.0]}


def test_a_ratio_is_the_median_of_pairs_not_of_sides():
    record = ratio_record("x", {"a": [1.0, 9.0, 4.0], "b": [2.0, 1.0, 4.0]}, "a", "b", Better.LOWER, "s", target=1.0)
    assert (record.ratio, record.low, record.high, record.repeats) == (1.0, 0.5, 9.0, 3)
    assert record.parts == {"a": Part(4.0, "s"), "b": Part(2.0, "s")}


@pytest.mark.parametrize(
    ("record", "met"),
    [
        (FASTER, True), (replace(FASTER, ratio=1.19), False), (replace(FASTER, ratio=1.2), True), (SMALLER, None),
        (replace(SMALLER, target=0.8), True), (replace(SMALLER, target=0.79), False),
    ],
)  # fmt: skip
def test_targets_are_met_from_their_own_side(record, met):
    assert record.met is met


@pytest.mark.parametrize(
    ("before", "now", "regressed"),
    [
        (FASTER, replace(FASTER, ratio=1.3 * 0.86), False), (FASTER, replace(FASTER, ratio=1.3 * 0.84), True),
        (FASTER, replace(FASTER, ratio=13.0), False),
        (SMALLER, replace(SMALLER, ratio=0.8 * 1.14), False), (SMALLER, replace(SMALLER, ratio=0.8 * 1.16), True),
        (SMALLER, replace(SMALLER, ratio=0.1), False),
    ],
)  # fmt: skip
def test_more_than_fifteen_percent_worse_is_a_regression(before, now, regressed):
    (change,) = changes(result(before), result(now))
    assert change.regressed is regressed
    assert change.line().startswith("WORSE" if regressed else "ok")


def test_what_is_measured_no_more_is_a_regression_and_what_is_new_is_none():
    gone, new = changes(result(FASTER), result(SMALLER))
    assert (gone.name, gone.regressed, new.name, new.regressed) == ("speed", True, "memory", False)
    assert gone.line().startswith("GONE")
    assert new.line().startswith("new")
    assert [change.regressed for change in changes(None, result(FASTER))] == [False]


def test_results_survive_their_file_and_come_in_the_asked_order(tmp_path):
    written = [result(FASTER, SMALLER), result(SMALLER, name="growth")]
    for one in written:
        one.write(tmp_path)
    assert read_results(tmp_path, ["growth", "not_run", "peers"]) == written[::-1]


def test_the_table_says_ratio_range_target_parts_and_machine():
    lines = table([result(FASTER, SMALLER), result(replace(SMALLER, target=0.5), name="growth")]).splitlines()
    assert lines[2] == "| speed. 100 images | **1.300** (1.200-1.400) | ≥ 1.200 | ours 1,234 images/s | 5 |"
    assert lines[3] == "| memory | **0.800** |  |  | 1 |"
    assert lines[4] == "| memory | **0.800** | ≤ 0.500, **missed** |  | 1 |"
    assert lines[6:] == [f"peers, growth: {described(result())}."]


def test_only_what_stands_between_the_marks_is_replaced():
    page = f"before\n{MARKS[0]}\nold \\1\n{MARKS[1]}\nafter"
    assert between_marks(page, "new \\1") == f"before\n{MARKS[0]}\nnew \\1\n{MARKS[1]}\nafter"
    with pytest.raises(ValueError, match="once"):
        between_marks("no marks", "new")
    with pytest.raises(ValueError, match="once"):
        between_marks(page + page, "new")


def test_slope_of_a_line():
    assert slope([1, 10, 100], [5.0, 23.0, 203.0]) == pytest.approx((3.0, 2.0))


def test_a_benchmark_runs_into_a_file_and_is_compared_with_the_baseline(tmp_path, monkeypatch, capsys):
    (tmp_path / "trivial.py").write_text(
        "from benchmarks.harness.frame import Better, Record\n"
        "def records(setting):\n"
        "    (setting.work / 'scratch').write_text('x')\n"
        "    setting.say(str(setting.work))\n"
        "    return [Record('counted', float(len(list(setting.data.iterdir()))), Better.HIGHER, 2.0, 2.0, 1)]\n"
    )
    data = tmp_path / "data"
    data.mkdir()
    for name in "ab":
        (data / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "baseline")
    for folder in ("baseline", "now"):
        run.measure("trivial", data, tmp_path / "none", tmp_path / folder, module="trivial")
        (data / "b").unlink(missing_ok=True)
    said = capsys.readouterr()
    assert "| counted | **2.000** |" in said.out
    assert not Path(said.err.splitlines()[0].removeprefix("trivial: ")).exists()  # the work folder is gone
    assert not run.compared(["trivial"], tmp_path / "now")
    assert "WORSE  counted: 2 before, 1 now, 50% worse" in capsys.readouterr().out
    found = Result.read(tmp_path / "now" / "trivial.json")
    assert found.machine["cores"] >= 1
    assert found.machine["versions"]["torch"]
    sys.modules.pop("trivial", None)


def test_an_unknown_benchmark_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "speling"])
    with pytest.raises(SystemExit):
        run.main()
    assert "no benchmark speling; there are " in capsys.readouterr().err
