"""The page on hand-over: its commands print what it says, its code runs."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
from fabricate import ROOT
from replay import masked, prepared, run, transcripts
from typer.testing import CliRunner

from mdmf_cli.main import app

PAGE = ROOT / "docs" / "hand-over.md"
BLOCKS = re.compile(r"^```python(?: (\w+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.long
def test_the_page_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(prepared(tmp_path))
    for command, expected in transcripts(PAGE):
        name, *arguments = shlex.split(command)
        assert name == "mdmf"
        alone = arguments[0] == "curate"  # with a server and logging of its own
        printed = run(command, tmp_path, tmp_path) if alone else CliRunner().invoke(app, arguments).output
        assert masked(printed) == masked(expected), f"$ {command}\n{printed}"
    blocks = BLOCKS.findall(PAGE.read_text())
    for _, block in blocks:
        compile(block, str(PAGE), "exec")
    runnable = [block for needs, block in blocks if not needs or (needs != "example" and find_spec(needs))]
    assert len(runnable) >= 4
    code = f"def main():\n{textwrap.indent(chr(10).join(runnable), '    ')}\nif __name__ == '__main__':\n    main()\n"
    Path("page.py").write_text(code)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "page.py"], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
