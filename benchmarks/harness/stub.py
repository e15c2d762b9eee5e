"""A real setup whose backbone costs next to nothing, and the real curate flow on it: what is left is the pipeline's own time.

python -m benchmarks.harness.stub SOURCE WAREHOUSE SHARDS_PER_TASK

runs the flow once and prints seconds and peak memory as JSON; PREFECT_API_URL names the server.
"""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from benchmarks.harness.frame import Setting
from mdmf_cli.local_prefect import LocalPrefect
from mdmf_core.banks.bank import Bank, BankMember, Slice
from mdmf_core.banks.calibration import Calibration, CalibrationSlice
from mdmf_core.banks.domains import Support
from mdmf_core.images.crops import CropPlan
from mdmf_core.scoring.scorer import Scorer, Statistic, scorer_digest
from tasks.runs.settings import ResolvedSettings
from tasks.scoring.loading import load_setup
from tasks.scoring.scoring_setup import ScoringSetup, sizes

ROOT = Path(__file__).parents[2]
_POINTS, _SIDE = 64, 224  # a crop of CLIP's size


class Mean(nn.Module):
    """The mean colours of a crop's quarters, of one pixel in 784: all of them would cost more than what is measured."""

    def forward(self, crops: UInt8[Tensor, "n 3 size size"]) -> Float[Tensor, "n 4 3"]:
        few = crops[..., ::28, ::28].float() / 255
        return nn.functional.adaptive_avg_pool2d(few, 2).flatten(2).transpose(1, 2)


def stub_kit() -> ScoringSetup:
    """The setup of a run on the default scorer, with another backbone, bank and calibration under their own digests."""
    plan, statistic, record = CropPlan(_SIDE, 1), Statistic({"mmd2": 1.0}, k=2), {"kind": "stub"}
    identity = scorer_digest(record, Mean(), plan, None, statistic, None)
    scorer = Scorer(
        name="stub", scorer_id=identity, backbone_record=record, crops=plan, statistic=statistic, sigma=None,
        backbone=Mean(), signature=None, device=torch.device("cpu"), autocast=None,
    )  # fmt: skip
    points = torch.rand(_POINTS, 3, generator=torch.Generator().manual_seed(0))
    part = Slice("photo", points, torch.full((_POINTS,), 1 / _POINTS), 0.0, _POINTS, 1, 0.3)
    bank = Bank("stub", identity, (part,), 0.3, (BankMember("stub", "0", "1" * 64),))
    support = Support(1, 10**6, 10**6, 0, 100, True)
    calibration = Calibration(identity, bank.bank_id, (CalibrationSlice("photo", (0.0, 0.1, 0.2), support, ("0" * 64,)),))
    batch, passes = sizes(plan, 0, cuda=False)
    return replace(
        load_setup("forensic", "default", "cpu", 0, 0, None),
        scorer=scorer, bank=bank, calibration=calibration, batch_crops=batch, passes=passes,
    )  # fmt: skip


@dataclass(frozen=True)
class FlowRun:
    """One run of the flow; of its ``wall`` seconds, those in which a shard was scored and those in which one was landed."""

    wall: float
    scoring: float
    landing: float
    overhead: float  # in which neither went on: Prefect, planning, closing
    cpu: float  # seconds of this process, which reads, feeds the decoders and writes
    scored: int
    peak_mb: float  # of the process, without its decoders


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals.

    >>> covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)])
    4.0
    """
    length, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def run_flow(source: Path, warehouse: Path, shards_per_task: int, setup: ScoringSetup) -> FlowRun:
    """The curate flow in this process as a deployment runs it, but without writing its report."""
    from flows.curate import curate
    from tasks.runs import steps

    spans: dict[str, list[tuple[float, float]]] = {"score_under_lease": [], "land": []}

    def clocked(name: str) -> Any:
        real = getattr(steps, name)

        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return real(*arguments, **named)
            finally:
                spans[name].append((started, time.perf_counter()))

        return mock.patch.object(steps, name, call)

    with (
        clocked("score_under_lease"),
        clocked("land"),
        mock.patch.object(ResolvedSettings, "setup", return_value=setup),
        mock.patch.object(steps, "write_report", return_value=None),
    ):
        started, cpu = time.perf_counter(), time.process_time()
        result = curate(source=f"{source}/*.tar", warehouse=str(warehouse), shards_per_task=shards_per_task)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    idle = wall - covered(spans["score_under_lease"] + spans["land"])
    return FlowRun(wall, covered(spans["score_under_lease"]), covered(spans["land"]), idle, cpu, result.scored, peak)


def run_apart(source: Path, warehouse: Path, shards_per_task: int, environment: Mapping[str, str]) -> FlowRun:
    """The same in a process of its own.

    Raises:
        RuntimeError: it failed; its last words.
    """
    command = [sys.executable, "-m", "benchmarks.harness.stub", str(source), str(warehouse), str(shards_per_task)]
    done = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return FlowRun(**json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def prefect_server(setting: Setting) -> Iterator[Mapping[str, str]]:
    """The environment of a client of a Prefect server that lives as long as the block."""
    local = LocalPrefect(ROOT, setting.work / "server")
    server = local.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(local.port))
    try:
        setting.say("starting a Prefect server")
        local.await_healthy(server)
        yield {**local.environment, "PYTHONPATH": str(ROOT)}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


if __name__ == "__main__":
    found = run_flow(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), stub_kit())
    print(json.dumps(asdict(found)))
