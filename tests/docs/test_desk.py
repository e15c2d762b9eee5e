"""The page on the desk: its commands print what it says, its code runs, its pictures are there."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fabricate import ROOT
from replay import masked, prepared, run, transcripts

PAGE = ROOT / "docs" / "desk.md"


def judged(folder: Path) -> None:
    """Writes verdicts.csv as the report's button does, on the first twenty of the review order, by their known labels."""
    run("mdmf review sample order.csv --n 20", folder, folder)
    with (ROOT / "samples" / "labels.csv").open(newline="") as file:
        labels = {row["key"]: row["label"] for row in csv.DictReader(file)}
    with (folder / "order.csv").open(newline="") as file:
        rows = [(row["image_id"], row["shard_url"], row["key"], labels[row["key"]], "ana", "") for row in csv.DictReader(file)]
    with (folder / "verdicts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "shard_url", "key", "verdict", "reviewer", "reason"), *rows])


@pytest.mark.long
def test_the_page_from_top_to_bottom(tmp_path):
    folder = prepared(tmp_path)
    for command, expected in transcripts(PAGE):
        if command.startswith("mdmf review import"):
            judged(folder)
        printed = run(command, folder, folder)
        assert masked(printed) == masked(expected), f"$ {command}\n{printed}"
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", block], cwd=folder, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read, _, listed = done.stdout.split()[:3]
    assert read == listed


def test_its_pictures_are_there_and_small():
    pictures = re.findall(r"\]\((img/[^)]+)\)", PAGE.read_text())
    assert sorted(pictures) == sorted(f"img/{path.name}" for path in (ROOT / "docs" / "img").iterdir())
    assert all((ROOT / "docs" / name).stat().st_size < 200_000 for name in pictures)
