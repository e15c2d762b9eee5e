"""Where the time of scoring a folder of shards goes: samples of every thread while it is at work, as text.

Run: python benchmarks/stages/where_time_goes.py SCORER BANK TARS... > benchmarks/profiles/NAME.txt    (needs py-spy)
"""

import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tasks.collections.listing import list_shards
from tasks.scoring.loading import load_setup
from tasks.scoring.score_shard import score_shard

THREAD = re.compile(r"^thread \(\d+\): (read|decode|backbone|model|score)")  # beside the main one
OURS = re.compile(r"\((tasks|mdmf_core)/")
WAITING = re.compile(r"^(Condition\.)?_?wait|^_worker|^Future\.|threading\.py")  # what the sampler takes for work
RATE, LINES = 50, 25  # samples a second; lines of a table


def work(scorer: str, bank: str, tars: list[str]) -> None:
    """Scores the shards in this process, and says what it was."""
    setup = load_setup(scorer, bank, "cpu", 0, 0, None)
    started, before = time.perf_counter(), time.process_time()
    images = 0
    with tempfile.TemporaryDirectory() as folder:
        for tar in tars:
            (shard,) = list_shards(tar, 1000)
            images += score_shard(shard, setup, folder, "run", None, lambda members: None).scored
    seconds = time.perf_counter() - started
    print(
        f"scorer {setup.scorer.name}, {images} images, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, "
        f"{setup.decode_threads} decoders\n{images / seconds:.2f} images/s with the sampler on; "
        f"{1000 * (time.process_time() - before) / images:.1f} ms of CPU per image without the decoders'\n",
        flush=True,
    )


def tables(samples: Path) -> None:
    """Self and inclusive shares of all samples in which a thread was running."""
    alone: collections.Counter[str] = collections.Counter()
    inside: collections.Counter[str] = collections.Counter()
    total = 0
    for line in samples.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.replace(str(Path(__file__).parents[2]) + "/", "") for frame in stack.split(";")]
        if not any("score_shard" in frame or THREAD.search(frame) for frame in frames) or WAITING.search(frames[-1]):
            continue
        total += int(count)
        alone[frames[-1]] += int(count)
        for frame in {frame for frame in frames if OURS.search(frame)}:
            inside[frame] += int(count)
    for title, counts in (("in the line itself", alone), ("in the function and what it calls", inside)):
        print(f"{title}, % of {total} samples at work in the threads of a shard")
        for frame, count in counts.most_common(LINES):
            print(f"{100 * count / total:6.1f}  {frame}")
        print()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples"
        command = ["py-spy", "record", "--rate", str(RATE), "--format", "raw", "--output", str(samples), "--threads", "--"]
        subprocess.run([*command, sys.executable, __file__, "--work", *sys.argv[1:]], check=True, stderr=subprocess.DEVNULL)
        tables(samples)


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        work(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        main()
