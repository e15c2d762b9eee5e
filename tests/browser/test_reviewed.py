"""Reviews in a real browser: what the page downloads can be imported, and the next page shows it."""

import re
import shutil
from pathlib import Path

from browsing import ARTIFACTS, cards, url_of
from fabricate import encoded, landed, write_tar
from playwright.sync_api import expect

from mdmf import to_pandas as query
from tasks.report.write import NoEvidence, write_report
from tasks.reviews.verdicts import import_reviews
from tasks.scoring.loading import load_setup
from tasks.warehouse.warehouse import Warehouse


def test_downloaded_verdicts_are_imported_as_they_are_and_the_next_report_shows_them(corpus, opened, tmp_path):
    page = opened(url_of(corpus))
    page.locator("[name=source]").select_option(f"{corpus[0].parent}/beta")
    page.fill("[name=reviewer]", "ana")
    chosen = cards(page, "#random")
    page.locator("#random .card:not([hidden]) .open").first.click()
    for _ in chosen:
        page.keyboard.press("r")
        page.keyboard.press("ArrowRight")
    page.locator("#close").click()
    with page.expect_download() as waiting:
        page.locator("#download").click()
    waiting.value.save_as(tmp_path / "verdicts.csv")
    lines = (tmp_path / "verdicts.csv").read_text().splitlines()
    assert not [line for line in lines if re.search(r'(^|,)"?[=+@-]', line)], "a formula, for a spreadsheet"
    warehouse = str(shutil.copy(corpus[1], tmp_path / "w.duckdb"))
    done = import_reviews(Warehouse.at(warehouse), str(tmp_path / "verdicts.csv"))
    assert (done.new, done.known, done.blank) == (3, 0, 0)
    said = query(warehouse, "SELECT image_id::VARCHAR AS id, verdict, reviewer FROM reviews")
    assert {*said["id"]} == {*chosen}
    assert {*zip(said["verdict"], said["reviewer"], strict=True)} == {("real", "ana")}
    page = opened(
        Path(write_report(Warehouse.at(warehouse), "reviewed", None, NoEvidence("no"), str(tmp_path / "report"))).as_uri()
    )
    page.locator("[name=source]").select_option(f"{corpus[0].parent}/beta")
    card = page.locator(f"#random [data-id='{chosen[0]}']")
    expect(card.locator(".said")).to_have_text("reviewed: real")
    card.locator(".open").click()
    expect(page.locator("#facts")).to_contain_text("real by ana")
    expect(page.locator("#facts")).to_contain_text("by review")
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / "report-reviewed.png")
    page.locator("#close").click()
    page.screenshot(path=ARTIFACTS / "report-reviewed-page.png", full_page=True)


def test_where_nothing_is_scored_the_page_opens_all_the_same(opened, tmp_path):
    path = write_tar(tmp_path / "x.tar", {"x.html": b"<html>", "s.png": encoded(52, "PNG", 40, 40)})
    warehouse = landed(tmp_path / "w.duckdb", path, load_setup("default", "default", "cpu", 16, 1, None))
    page = opened(
        Path(write_report(Warehouse.at(warehouse), "nothing", None, NoEvidence("no"), str(tmp_path / "report"))).as_uri()
    )
    assert "not_an_image" in page.locator("#excluded").inner_text()
    expect(page.locator("#shown")).to_have_text("0 images")
    page.screenshot(path=ARTIFACTS / "report-excluded-only.png", full_page=True)
