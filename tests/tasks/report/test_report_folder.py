"""The report's folder replaces only itself, and its colours can be read."""

import re
from importlib.resources import files

import pytest

from tasks.report.folder import write_folder


def test_our_own_folder_is_replaced_and_what_others_put_there_is_kept(tmp_path):
    first, second = {f"{'a' * 32}.jpg": b"one"}, {f"{'b' * 32}.jpg": b"two", f"{'c' * 32}.png": b"three"}
    out = tmp_path / "r"
    write_folder(str(out), b"<html>1", first, None)
    (out / "verdicts.csv").write_text("mine")
    (out / "pictures" / "holiday.jpg").write_text("mine")
    (out / "pictures" / f"{'c' * 32}.png").write_bytes(b"th")  # cut short by a crash
    assert write_folder(str(out), b"<html>2", second, None) == str(out / "index.html")
    assert (out / "index.html").read_bytes() == b"<html>2"
    pictured = {path.name: path.read_bytes() for path in (out / "pictures").iterdir()}
    assert pictured == second | {"holiday.jpg": b"mine"}
    assert (out / "verdicts.csv").read_text() == "mine"


def test_a_report_of_an_earlier_version_may_be_replaced(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>MDMF report: x</title>")
    write_folder(str(tmp_path), b"<html>2", {}, None)
    assert (tmp_path / "index.html").read_bytes() == b"<html>2"


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_the_palette_meets_wcag_aa(theme):
    named = re.findall(
        r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", (files("tasks.report") / "templates" / "report.css").read_text()
    )
    colour = {name: pair[theme] for name, *pair in named}
    for text in ("ink", "soft", "link", "warm"):
        for ground in ("page", "panel", "sunk"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    for mark in ("edge", "warm", "cool", "mark"):  # borders of controls, and what charts are drawn with
        for ground in ("page", "panel"):
            assert contrast(colour[mark], colour[ground]) >= 3.0, (mark, ground)
    assert contrast(colour["page"], colour["ink"]) >= 4.5  # pressed buttons
