"""Helpers for tests that open the report in a browser."""

import time
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


def wait_for(page: Page, expression: str, seconds: float = 30.0) -> None:
    """Waits until JavaScript says yes. Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)
