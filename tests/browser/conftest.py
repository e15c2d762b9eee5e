"""A browser, a corpus with its report, and pages that must not fail."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import HOSTILE
from fabricate import ROOT, encoded, landed, write_shard, write_tar
from playwright.sync_api import Browser, Page, sync_playwright

from tasks.report.write import write_report
from tasks.scoring.loading import load_setup
from tasks.warehouse.warehouse import Warehouse


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Starts chromium and closes it with the module.

    While it is open an event loop runs in this thread, and Prefect's calls become coroutines.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium (.ci/run does)")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def corpus(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Scores three sources with the bundled scorer, one of them hostile and one bundled; gives (report folder, warehouse)."""
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("alpha", "beta", "samples"):
        (folder / name).mkdir()
    write_shard(folder / "alpha" / "00000.tar", range(30))
    hostile = {
        f"{HOSTILE}.jpg": encoded(50),
        f"{HOSTILE}.txt": b"<b onclick=alert(1)>bold</b> \xe2\x80\xae txet",
        "x.html": b"<html>",
    }
    hostile[f"{'k' * 600}.jpg"] = encoded(53)  # longer than what the page holds of it
    hostile |= {"=cmd|'/c calc'!A1,\".jpg": encoded(51), "s.png": encoded(52, "PNG", 40, 40)}
    write_tar(folder / "beta" / "b.tar", hostile)
    for path in (ROOT / "samples" / "laion-mini").glob("00000*"):
        shutil.copy(path, folder / "samples")
    setup = load_setup("default", "default", "cpu", 16, 1, None)
    source = f"{folder}/{{alpha/00000,beta/b,samples/00000}}.tar"
    warehouse = landed(folder / "w.duckdb", source, setup)
    page = write_report(Warehouse.at(warehouse), "three sources", None, setup, str(folder / "report"))
    return Path(page).parent, Path(warehouse)


@pytest.fixture
def opened(browser: Browser) -> Iterator[object]:
    """A function that opens a report; at the end nothing may have failed, and nothing may have been asked of the network."""
    troubles: list[str] = []
    contexts = []

    def open_page(url: str, **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1600, "height": 1000}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
        origin = url.partition("/report")[0]
        page.on("request", lambda request: request.url.startswith((origin, "data:", "blob:")) or troubles.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []
