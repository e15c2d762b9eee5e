"""docs/architecture.md and CONTRIBUTING.md against the tree that they describe."""

import re

import pytest
from fabricate import ROOT

PAGES = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"]


def rooms() -> set[str]:
    """Folders of packages, as `tasks/storage/`."""
    tops = ("flows", "tasks", "mdmf_core", "mdmf", "mdmf_cli")
    return {f"{path.parent.relative_to(ROOT)}/" for top in tops for path in (ROOT / top).rglob("__init__.py")}


def drawn() -> set[str]:
    """Folders in the picture of the tree."""
    picture = PAGES[0].read_text().split("## The tree")[1].split("```")[1]
    found, above = set(), [""]
    for line in picture.strip("\n").splitlines():
        if match := re.match(r"( *)([\w.]+/)", line):
            above = [*above[: 1 + len(match[1]) // 2], above[len(match[1]) // 2] + match[2]]
            found.add(above[-1])
    return found


def test_every_room_stands_in_the_picture_and_every_folder_in_it_exists():
    assert rooms() - drawn() == set()
    assert {folder for folder in drawn() if not (ROOT / folder).is_dir()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_the_pages_name_exist(page):
    named = re.findall(
        r"`((?:flows|tasks|mdmf_core|mdmf_cli|mdmf|tests|docs|warehouse|benchmarks|scorers)/[\w./-]+)`", page.read_text()
    )
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
