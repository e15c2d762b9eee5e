"""The transcripts of the documentation, run again."""

from pathlib import Path

import pytest
from fabricate import ROOT
from prefect.events.schemas.automations import AutomationCore
from replay import masked, prepared, run, transcripts
from yaml import safe_load

DATA = ROOT.parent / "shared" / "data"


@pytest.mark.long
@pytest.mark.skipif(not DATA.exists(), reason="the labelled images are not beside this checkout")
def test_the_life_of_a_bank_as_the_page_tells_it(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    for command, expected in transcripts(ROOT / "docs" / "banks.md"):
        printed = run(command, folder, DATA)
        assert masked(printed) == masked(expected), f"$ {command}\n{printed}"


def test_masking_hides_numbers_and_drawing_but_no_word() -> None:
    assert masked("│ a │  0.12 │\nx 4138db111941 -3e-05") == masked("┃ a ┃ 7 ┃ x 00000000ffff 5")
    assert masked("banks/photos-3e367a0616e8:") == masked("banks/photos-a4673811c797:")
    assert masked("kept 3") != masked("lost 3")


def test_the_automation_of_the_page_is_one_that_prefect_takes() -> None:
    page = (ROOT / "docs" / "banks.md").read_text()
    text = page.split("```yaml\n")[1].split("```")[0]
    found = AutomationCore.model_validate(safe_load(text))
    assert found.actions[0].type == "pause-deployment"
