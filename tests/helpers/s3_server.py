"""S3 servers on loopback: a fast one that checks signatures, and one that heeds conditional PUTs."""

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
    """Runs a server that checks signatures; gives the folder behind its bucket `corpus` and its endpoint URL."""
    (root / "corpus").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rclone = Path(sys.executable).with_name("rclone")
    command = [str(rclone), "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", str(root)]
    command += ["--vfs-cache-mode", "off", "--dir-cache-time", "1ms"]  # with 0s rclone spins in new folders
    with _served(command, port) as url:
        yield root / "corpus", url


# One request at a time: moto looks whether a key is there and then writes it, so that two threads could both win.
_MOTO = (
    "import sys; from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app; "
    "from werkzeug.serving import run_simple; "
    "run_simple('127.0.0.1', int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)"
)


@contextmanager
def conditional_s3() -> Iterator[str]:
    """Runs a server in memory that answers 412 to a PUT with `If-None-Match: *` on a known key; gives its endpoint URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _served([sys.executable, "-c", _MOTO, str(port)], port) as url:
        yield url


@contextmanager
def _served(command: list[str], port: int) -> Iterator[str]:
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
