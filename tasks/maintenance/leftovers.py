"""Temporary files that a killed process left beside a warehouse."""

import glob
import os
import time
from collections.abc import Iterator
from functools import partial

from tasks.maintenance.findings import Problem
from tasks.maintenance.recount import Recount
from tasks.parts.store import remove, store_of
from tasks.warehouse.warehouse import Warehouse

_OLD = 24 * 3600.0  # seconds without a write after which a temporary file is nobody's


def _leftovers(warehouse: Warehouse, folder: str, state: Recount) -> Iterator[Problem]:
    """Yields temporary files and plans that nobody needs, and runs that never ended."""
    now = time.time()
    beside = glob.escape(warehouse.spelled)
    for path in sorted([*glob.glob(glob.escape(folder) + "/**/*.tmp", recursive=True), *glob.glob(beside + ".*.tmp")]):
        age = now - os.path.getmtime(path)
        if age > _OLD and os.path.isfile(path):
            yield Problem(
                "temporary", path, f"not written for {age / 3600:.0f} hours; the repair removes it", partial(os.remove, path)
            )
    for plan in store_of(folder).entries(os.path.join(folder, "plans")):
        run, suffix = os.path.splitext(os.path.basename(plan.path))
        ended = state.runs.get(run, "lost" if now - plan.changed > _OLD else "running") != "running"
        if suffix == ".parquet" and ended:
            yield Problem("plan", plan.path, "its run has ended; the repair removes it", partial(remove, plan.path), note=True)
    for run, source, started in state.running:
        yield Problem(
            "run", run, f"of {source}, started {started:%Y-%m-%d %H:%M}, has no end: it goes on, or was killed", note=True
        )
