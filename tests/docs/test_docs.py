"""Pages that state figures state those of the files that ship."""

import importlib.util
import json

from fabricate import ROOT


def test_the_detection_page_holds_the_figures_of_the_bundled_scorer():
    spec = importlib.util.spec_from_file_location("build_default", ROOT / "scorers" / "build_default.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    card = json.loads((ROOT / "scorers" / "default" / "scorer.json").read_text())
    page = (ROOT / "docs" / "detection.md").read_text()
    assert build.with_block(page, build.figures_block(card)) == page
    assert "Per generator" in page
