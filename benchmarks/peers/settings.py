"""Which number of workers and threads each peer is fastest with on this machine, so that none is compared at a bad one."""

import shutil
import subprocess

from benchmarks.harness.frame import Better, Part, Record, Setting
from benchmarks.peers.runs import images, installed, run_peer

IMAGES, SHARDS, BATCH = 48, 2, 8
# (workers, threads of the model). Workers are DataLoader's processes, Ray's actors and Daft's replicas of the model.
CHOICES = {
    "webdataset + DataLoader": ((0, 2), (1, 2), (2, 2)),
    "clip-retrieval": ((0, 2), (1, 2), (2, 2)),
    "Ray Data": ((1, 2), (1, 1), (2, 1)),
    "Daft": ((1, 2), (2, 1)),
}


def records(setting: Setting) -> list[Record]:
    given, found = images(setting, IMAGES, SHARDS), []
    for peer in installed():
        rates = {}
        for workers, threads in CHOICES[peer]:
            out = setting.work / "out"
            shutil.rmtree(out, ignore_errors=True)
            try:
                run = run_peer(peer, given, setting.weights, out, BATCH, workers, threads)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                setting.say(f"{peer}, {workers} workers, {threads} threads: does not run here: {error}")
                continue
            rates[workers, threads] = run.images_per_second
            setting.say(f"{peer}, {workers} workers, {threads} threads: {run.images_per_second:.2f} images/s")
        best = max(rates.values(), default=0.0)
        for (workers, threads), rate in rates.items():
            parts = {"rate": Part(rate, "images/s"), "workers": Part(workers, ""), "threads": Part(threads, "")}
            ratio = rate / best
            name = f"{peer}, {workers} workers, {threads} threads, over its best setting"
            found.append(Record(name, ratio, Better.HIGHER, ratio, ratio, 1, parts, did=given.did))
    return found
