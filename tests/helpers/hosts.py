"""Processes that take themselves to be on another machine: another host name, so another identity in leases."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
_NAMED = (
    "import runpy, socket, sys; name = sys.argv[1]; socket.gethostname = lambda: name; "
    "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def on_host(name: str, script: str, *arguments: object) -> "subprocess.Popen[str]":
    """Starts a script of the tests on a host of this name; its output can be read line by line."""
    paths = [str(TESTS.parent), str(TESTS / "helpers"), str(TESTS / "chaos"), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", _NAMED, name, str(TESTS / script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
