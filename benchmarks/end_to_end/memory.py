"""Peak memory of scoring one shard, for small and large shards, each in a process of its own.

The backbone is a stub that costs nothing, since the question is what waits between the stages and not what a model takes;
everything else is the real thing: reading, decode children, statistics, part.

Run: python benchmarks/end_to_end/memory.py        (about 5 GB of disk in the temporary folder)
"""

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from tasks.collections.listing import list_shards
from tasks.scoring.loading import load_setup
from tasks.scoring.score_shard import score_shard

SHARDS = {"1,000 members": (1_000, 0), "100,000 members": (100_000, 0), "40 members of 50 MB": (40, 50_000_000)}


class Stub(nn.Module):
    """Nine tokens of eight numbers from the first pixels of a crop."""

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return crops.flatten(1)[:, :72].view(-1, 9, 8).float() / 255


def write(path: Path, members: int, filler: int) -> None:
    """JPEGs of 64 px that differ in a byte behind their end, where ``filler`` more follow."""
    encoded = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(encoded, "JPEG", quality=50)
    with tarfile.open(path, "w") as tar:
        for number in range(members):
            data = encoded.getvalue() + number.to_bytes(4, "little") + bytes(filler)
            entry = tarfile.TarInfo(f"{number:06d}.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def one(path: Path) -> dict[str, Any]:
    """Scores a shard in this process; peak memory of it and of its largest decoder, MB."""
    setup = load_setup("forensic", "default", "cpu", 0, 0, None)
    setup = replace(setup, scorer=replace(setup.scorer, backbone=Stub(), signature=None))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        (shard,) = list_shards(str(path), 1000)
        outcome = score_shard(shard, setup, folder, "run", None, lambda members: None)
    if outcome.state != "complete" or outcome.excluded:
        raise SystemExit(f"the shard should be scored whole: {outcome}")
    return {
        "members": outcome.members,
        "megabytes": path.stat().st_size / 1e6,
        "loaded": before / 1024,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": time.monotonic() - started,
    }


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (members, filler) in SHARDS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "00000.tar"
            write(path, members, filler)
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
            done = subprocess.run(
                [sys.executable, __file__, str(path)], env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            yield name, json.loads(done.stdout)


def measure() -> dict[str, Any]:
    """The cases by name, and by how much the worst peak exceeds that of the small shard."""
    found = dict(cases())
    small = found[next(iter(SHARDS))]["peak"]
    return {"cases": found, "worst_over_small": max(case["peak"] for case in found.values()) / small}


def main() -> None:
    found = measure()
    print("| shard | size, MB | modules and model, MB | peak, MB | s |\n|---|---:|---:|---:|---:|")
    for name, case in found["cases"].items():
        print(f"| {name} | {case['megabytes']:.0f} | {case['loaded']:.0f} | {case['peak']:.0f} | {case['seconds']:.0f} |")
    print(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(one(Path(sys.argv[1]))))
    else:
        main()
