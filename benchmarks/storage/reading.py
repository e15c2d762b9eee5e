"""What the checked and resumable reader costs against fsspec's plain one when nothing fails: GB/s and peak memory.

    python benchmarks/storage/reading.py [MB]

Reads a file as a tar is read, in small pieces from start to end, from local disk and from `rclone serve s3` on loopback.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mdmf_core.records import Shard
from tasks.storage.checked_reads import open_shard_file
from tasks.storage.filesystems import fingerprint, open_storage

_PIECE = 10240  # bytes that tarfile asks for
_ROUNDS = 5


def plainly(url: str) -> Any:
    filesystem, path = open_storage(url)
    return filesystem.open(path, "rb", block_size=8 * 2**20, cache_type="readahead")


def steadily(url: str) -> Any:
    filesystem, path = open_storage(url)
    entry = filesystem.info(path)
    return open_shard_file(Shard(url, url.rpartition(".")[2], int(entry["size"]), fingerprint(entry)), None)


def measure(opened: Callable[[str], Any], url: str) -> tuple[float, float]:
    """(GB/s of the median round, peak MiB of the process above what it was before)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before, seconds, size = _peak(), [], 0
    for _ in range(_ROUNDS):
        started, size = time.perf_counter(), 0
        with opened(url) as file:
            while piece := file.read(_PIECE):
                size += len(piece)
        seconds.append(time.perf_counter() - started)
    return size / statistics.median(seconds) / 1e9, _peak() - before


def _peak() -> float:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def compare(name: str, url: str) -> None:
    found = {}
    for opened in (plainly, steadily):
        with get_context("spawn").Pool(1) as pool:  # a process each, for its memory
            found[opened] = pool.apply(measure, (opened, url))
    (old, old_memory), (new, new_memory) = found[plainly], found[steadily]
    print(
        f"{name}: plain {old:.2f} GB/s, +{old_memory:.0f} MiB; steady {new:.2f} GB/s, +{new_memory:.0f} MiB; {new / old:.2f}x"
    )


def main(megabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus" / "large.tar"
        path.parent.mkdir()
        path.write_bytes(os.urandom(megabytes * 10**6))
        path.with_suffix(".parquet").hardlink_to(path)  # which is read without a checksum
        compare("disk", str(path))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        rclone = str(Path(sys.executable).with_name("rclone"))
        command = [rclone, "serve", "s3", "--auth-key", "key,secret-of-the-benchmark", "--addr", address, folder]
        server = subprocess.Popen([*command, "--vfs-cache-mode", "off"], stderr=subprocess.DEVNULL)
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-of-the-benchmark", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{address}",
        }  # fmt: skip
        try:
            while socket.socket().connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))):
                time.sleep(0.1)
            compare("s3, MD5 compared", "s3://corpus/large.tar")
            compare("s3", "s3://corpus/large.parquet")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
