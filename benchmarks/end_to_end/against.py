"""This checkout's shard path against another checkout's, in turns on the same shards, each with its own defaults.

python -m benchmarks.end_to_end.against OTHER_CHECKOUT DATA
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness.corpora import as_laion, described, photographs, write_shards
from benchmarks.harness.frame import Better, Record, interleaved, ratio_record

ROOT = Path(__file__).parents[2]
IMAGES, REPEATS = 256, 3
# Runs in either checkout, with nothing but names that both have.
_SCORE = """
import inspect, json, shutil, sys, time
from flows.curate import curate
from tasks.scoring.score_shard import score_shard
from tasks.scoring.loading import load_setup
from tasks.collections.listing import list_shards
shards, parts = sys.argv[1:]
batch = inspect.signature(curate.fn).parameters["batch_images"].default
setup = load_setup("forensic", "default", "cpu", batch, 0, None)
rates = []
for _ in range(2):  # the first warms decoders and kernels
    shutil.rmtree(parts, ignore_errors=True)
    started = time.perf_counter()
    found = [score_shard(shard, setup, parts, "r", None, lambda done: None) for shard in list_shards(shards, 1000)]
    assert all(outcome.state == "complete" for outcome in found), found
    rates.append(sum(outcome.scored for outcome in found) / (time.perf_counter() - started))
print(json.dumps(rates[-1]))
"""


def rate(checkout: Path, shards: Path, parts: Path) -> float:
    """Images per second of one checkout's code in a process of its own."""
    command = [sys.executable, "-c", _SCORE, str(shards), str(parts)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def compared(other: Path, data: Path, work: Path) -> list[Record]:
    """One record for each kind of images."""
    originals, found = photographs(data, IMAGES), []
    for kind, images in {"256 px, as LAION": list(as_laion(originals)), "as found on the web": originals}.items():
        shards = write_shards(work / kind.split()[0], images)[0].parent
        sides = {
            "here": lambda shards=shards: rate(ROOT, shards, work / "a"),
            "there": lambda shards=shards: rate(other, shards, work / "b"),
        }
        rates = interleaved(sides, REPEATS, print, warm=False)
        name = f"whole path here over there, embedded scorer, images {kind}"
        found.append(ratio_record(name, rates, "here", "there", Better.HIGHER, "images/s", did=described(images)))
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for record in compared(Path(sys.argv[1]).resolve(), Path(sys.argv[2]), Path(folder)):
            parts = ", ".join(f"{name} {part.value:.1f} {part.unit}" for name, part in record.parts.items())
            print(
                f"{record.name}: {record.ratio:.2f} ({record.low:.2f}-{record.high:.2f}); {parts}; {record.did}; n = {REPEATS}"
            )
