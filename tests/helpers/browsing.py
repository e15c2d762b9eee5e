"""Helpers for tests that open the report in a browser."""

from pathlib import Path

from fabricate import ROOT
from playwright.sync_api import Page

ARTIFACTS = ROOT / "tests" / "artifacts"
BREAK = "document['title']='broken'"
HOSTILE = f"a'; DROP TABLE images; --\"</script><script>{BREAK}</script><img src=x onerror={BREAK}>"


def url_of(corpus: tuple[Path, Path]) -> str:
    return f"file://{corpus[0]}/index.html"


def cards(page: Page, gallery: str = "") -> list[str]:
    return page.eval_on_selector_all(f"{gallery} .card[data-id]:not([hidden])", "found => found.map(card => card.dataset.id)")
