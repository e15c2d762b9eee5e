"""A real S3 server on loopback that checks signatures."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY, SECRET = "curator", "a-secret-of-the-tests"


@contextmanager
def s3_server(root: Path) -> Iterator[tuple[Path, str]]:
    """(folder behind the bucket `corpus`, endpoint URL)."""
    (root / "corpus").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rclone = Path(sys.executable).with_name("rclone")
    command = [str(rclone), "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", str(root)]
    command += ["--vfs-cache-mode", "off", "--dir-cache-time", "1ms"]  # with 0s rclone spins in new folders
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield root / "corpus", f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
