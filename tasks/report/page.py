"""From facts to one HTML page: escaped, with the hashes of its own style and script as the only ones that may run."""

import base64
import hashlib
import json
import math
import os
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.parts.columns import COLUMNS
from tasks.report import facts, galleries
from tasks.report.folder import PICTURES
from tasks.report.pictures import DENSITY, WITNESS, colours
from tasks.warehouse.query_rows import Records

_LONGEST = 500  # characters of a key or path that the page shows; hostile ones can be megabytes
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 168, 34, 34, 16  # of a histogram, in its own units


def render(found: dict[str, Any]) -> bytes:
    """Returns the HTML page as bytes."""
    environment = Environment(
        loader=PackageLoader("tasks.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shared = _shared_folder(found["sources"])
    environment.filters |= {
        "count": _count, "percent": _percent, "number": _number, "short": _short,
        "label": lambda name: name.removeprefix(shared),
    }  # fmt: skip
    css = f"{_source(environment, 'report.css')}\n{_legend_css()}"
    script = "\n".join(_source(environment, name) for name in ("report.js", "panel.js"))
    text = environment.get_template("page.html.jinja").render(
        found
        | {
            "css": css,
            "css_hash": _hash(css),
            "script": script,
            "script_hash": _hash(script),
            "data": _json(_data(found)),
            "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "totals": {
                name: sum(row[name] for row in found["accounting"]) for name in ("shards", "members", "scored", "excluded")
            },
            "charts": charts(found["histograms"], found["line"]),
            "pictures": PICTURES,
            "shared_folder": shared,
            "sql": {
                "accounting": facts.ACCOUNTING,
                "unfinished": facts.UNFINISHED,
                "counts": found["counts_sql"],
                "budgets": facts.BUDGET_TABLE,
                "prevalence": facts.PREVALENCE,
                "precision": facts.precision_sql(found["line"]),
                "by_review": facts.by_review_sql(found["line"]),
                "reviewed": facts.reviewed_precision_sql(found["line"]),
                "reasons": galleries.REASON_COUNTS,
            },
        }
    )
    return text.encode()


def charts(histograms: Records, line: float) -> Records:
    """Lays histograms out to one scale: bars for the images, a mark for what real images alone would give."""
    shares = [max(bin["images"], bin["expected"]) / max(row["covered"], 1) for row in histograms for bin in row["bins"]]
    top = max(0.1, math.ceil(10 * max(shares, default=0)) / 10)
    found = []
    for row in histograms:
        room, step = HEIGHT - BOTTOM - TOP, (WIDTH - LEFT) / len(row["bins"])
        every = 2 if len(row["bins"]) > 9 else 1
        bars = []
        for at, bin in enumerate(row["bins"]):
            height, expected = (room * bin[name] / max(row["covered"], 1) / top for name in ("images", "expected"))
            bars.append(
                bin
                | {
                    "x": round(LEFT + at * step + 1.5, 1), "width": round(step - 3, 1), "height": round(height, 1),
                    "y": round(HEIGHT - BOTTOM - height, 1), "mark": round(HEIGHT - BOTTOM - expected, 1),
                    "flagged": bin["high"] <= line, "edge": round(LEFT + (at + 1) * step, 1),
                    "label": _edge(bin["high"]) if (len(row["bins"]) - 1 - at) % every == 0 else "",
                }
            )  # fmt: skip
        at_line = next(bar["edge"] for bar in bars if bar["high"] == line)
        found.append(row | {"bars": bars, "top": top, "at_line": at_line})
    return found


def _shared_folder(sources: galleries.Sources) -> str:
    """Returns the path that the names of several folders begin with, so that the page need not repeat it."""
    if sources.kind == "host" or len(sources.names) < 2:
        return ""
    # commonpath would take one slash from s3://
    return os.path.commonprefix(sources.names).rpartition("/")[0] + "/"  # noqa: RUF071


def _data(found: dict[str, Any]) -> dict[str, Any]:
    """Returns what the page's script needs: image records, and what they share."""
    known = found["lineage"]
    return {
        "warehouse": found["warehouse"],
        "lineage": known,
        "runs": found["runs"],
        "bankSources": {
            domain: found["bank_sources"].get(domain, []) for domain in {row["domain"] for row in found["budgets"]}
        },
        "line": found["line"],
        "columns": [
            {"name": column.name, "tables": column.tables, "sql": column.sql, "label": column.label, "hint": column.hint}
            for column in COLUMNS
            if column.label
        ],
        "pictures": PICTURES,
        "noEvidence": found["no_evidence"],
        "images": {identity: _record(row) for identity, row in found["images"].items()},
    }


def _record(row: dict[str, Any]) -> dict[str, Any]:
    left_out = ("image_id", "shard_id", "kind", "locator")
    record = {name: value for name, value in row.items() if name not in left_out}
    shown = {name: _short(record[name], _LONGEST) for name in ("key", "shard_url", "url")}
    # A file of verdicts names keys and shards as they are or not at all.
    return record | shown | {"shortened": any(shown[name] != record[name] for name in ("key", "shard_url"))}


def _legend_css() -> str:
    return "\n".join(
        f".ramp.{name} {{ background: linear-gradient(90deg, {', '.join(colours(colormap, 9))}); }}"
        for name, colormap in (("witness", WITNESS), ("density", DENSITY))
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None  # noqa: S101 - given above
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: dict[str, Any]) -> str:
    """Returns JSON that cannot end the HTML element that holds it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _percent(share: float) -> str:
    """Returns a share in percent, with the digits that a small one needs: 77 %, 5 %, 0.29 %, 0.01 %."""
    return (f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}") + "\u202f%"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _edge(value: float) -> str:
    return f"{value:.2g}".removeprefix("0") if value < 1 else "1"


def _short(text: str | None, most: int = 120) -> str:
    """Returns the text, with its middle left out where it is too long."""
    text = text or ""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
