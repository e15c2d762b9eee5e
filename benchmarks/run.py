"""Runs benchmarks, each in a process of its own, and keeps or compares what they give.

python -m benchmarks.run [--compare] [--data FOLDER] [--weights FILE] [NAME ...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.end_to_end import estimate
from benchmarks.harness.compare import between_marks, changes, read_results, table
from benchmarks.harness.frame import Result, Setting
from benchmarks.harness.machine import machine

BENCHMARKS = {  # name of the result, and its module
    "end_to_end": "end_to_end.clip",
    "embedded": "end_to_end.embedded",
    "mmd": "stages.mmd",
    "compression": "stages.compression",
    "landing": "storage.landing",
    "prefect_overhead": "end_to_end.prefect_overhead",
    "growth": "end_to_end.growth",
    "growth_shards": "end_to_end.growth_shards",
    "peer_settings": "peers.settings",
    "side_by_side": "peers.side_by_side",
}
ROOT = Path(__file__).parent.parent
WITH_PEERS = ("peer_settings", "side_by_side")  # need what `make bench-peers` installs, so they run when they are named
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"
_RUNS = ROOT / ".mdmf" / "bench"


def measure(name: str, data: Path, weights: Path, results: Path, module: str | None = None) -> None:
    """Runs one benchmark here and writes its result."""
    found, started = machine(), time.perf_counter()
    work = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
    try:
        setting = Setting(data, weights, work, lambda line: print(f"{name}: {line}", file=sys.stderr, flush=True))
        records = import_module(module or f"benchmarks.{BENCHMARKS[name]}").records(setting)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    result = Result(name, found, round(time.perf_counter() - started, 1), records)
    result.write(results)
    print(table([result]))


def apart(name: str, data: Path, weights: Path, results: Path) -> bool:
    """Whether one benchmark ended well in a process of its own, which nothing before it has warmed, filled or threaded."""
    command = [sys.executable, "-m", "benchmarks.run", "--here", "--results", str(results), name]
    return subprocess.call([*command, "--data", str(data), "--weights", str(weights)], cwd=ROOT) == 0


def compared(names: Sequence[str], results: Path) -> bool:
    """Prints each ratio beside its baseline; whether none regressed."""
    good = True
    for result in read_results(results, names):
        path = RESULTS / f"{result.benchmark}.json"
        for change in changes(Result.read(path) if path.exists() else None, result):
            print(change.line())
            good &= not change.regressed
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.run")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; none = all but {' and '.join(WITH_PEERS)}"
    )
    parser.add_argument("--compare", action="store_true", help="against the committed results; 1 when a ratio is 15 % worse")
    parser.add_argument("--data", type=Path, default=ROOT / "samples", help="a folder of images")
    parser.add_argument("--weights", type=Path, default=ROOT / ".mdmf" / "clip-vit-b16.safetensors")
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    data, weights = given.data.resolve(), given.weights.resolve()
    if given.here:
        for name in given.names:
            measure(name, data, weights, given.results)
        return 0
    names = given.names or [name for name in BENCHMARKS if name not in WITH_PEERS]
    results = _RUNS / time.strftime("%Y%m%d-%H%M%S") if given.compare else RESULTS
    failed = [name for name in names if not apart(name, data, weights, results)]
    if failed:
        print(f"did not end well: {', '.join(failed)}", file=sys.stderr)
    if given.compare:
        return int(not compared(names, results) or bool(failed))
    page = between_marks(PAGE.read_text(), table(read_results(RESULTS, tuple(BENCHMARKS))))
    if all((RESULTS / f"{name}.json").exists() for name in ("embedded", "growth")):
        page = between_marks(page, estimate.table(estimate.measured(RESULTS)), estimate.MARKS)
    PAGE.write_text(page)
    print(f"{PAGE.relative_to(ROOT)} shows {os.path.relpath(RESULTS, ROOT)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
