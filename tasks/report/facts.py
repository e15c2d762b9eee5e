"""What the report says in numbers: accounting, lineage, scores by source, budgets and prevalence, each with its SQL."""

import math
from typing import Any

import duckdb

from mdmf_core.banks.calibration import BUDGETS, Calibration, budget
from tasks.report.galleries import Sources, number
from tasks.warehouse.query_rows import Records, records

ACCOUNTING = (
    "SELECT state, count(*) AS shards, sum(members)::BIGINT AS members, sum(scored)::BIGINT AS scored, "
    "sum(excluded)::BIGINT AS excluded, sum(size_bytes)::BIGINT AS bytes FROM accounting GROUP BY state ORDER BY state"
)
UNFINISHED = "SELECT url, state, reason FROM accounting WHERE state <> 'complete' ORDER BY url LIMIT 100"
PREVALENCE = "SELECT domain, images, generated_share, low, high FROM prevalence()"
BUDGET_TABLE = "SELECT domain, budget, low, high, sure_line FROM budgets"
_PREFERRED = 0.05  # the budget that galleries and colours are about, where the calibration can keep it

_LINEAGE = """
SELECT s.name AS scorer, s.digest AS scorer_digest, b.name AS bank, b.version AS bank_version, b.digest AS bank_digest,
       b.url AS bank_url, b.images AS bank_images, b.patches AS bank_patches, b.points AS bank_points, b.sigma,
       b.coreset_error, c.version AS calibration_version, c.digest AS calibration_digest, c.url AS calibration_url,
       c.images AS calibration_images, c.smallest_budget, p.scorer_id::VARCHAR AS scorer_id,
       p.bank_id::VARCHAR AS bank_id, p.calibration_id::VARCHAR AS calibration_id
FROM promoted p JOIN scorers s USING (scorer_id) JOIN banks b USING (bank_id) JOIN calibrations c USING (calibration_id)
"""


def lineage(connection: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    """Returns the scorer, bank and calibration that the views show; None in a warehouse that has none yet."""
    return next(iter(records(connection, _LINEAGE)), None)


def scorer_reference(connection: duckdb.DuckDBPyConnection, scorer_id: str) -> str | None:
    """How the newest run with this scorer named it; None when no run did."""
    found = records(
        connection,
        "SELECT parameters->>'scorer' AS scorer FROM runs WHERE scorer_id = $id::UUID AND parameters->>'scorer' IS NOT NULL "
        "ORDER BY started_at DESC LIMIT 1",
        {"id": scorer_id},
    )
    return found[0]["scorer"] if found else None


def runs(connection: duckdb.DuckDBPyConnection, ids: set[str]) -> dict[str, Any]:
    """The runs that scored some images, by id."""
    found = records(
        connection,
        "SELECT run_id::VARCHAR AS run_id, flow, source, code_version, device, strftime(started_at, '%Y-%m-%d %H:%M UTC') AS "
        "started FROM runs WHERE run_id IN (SELECT unnest($ids::UUID[]))",
        {"ids": sorted(ids)},
    )
    return {row.pop("run_id"): row for row in found}


def bank_sources(connection: duckdb.DuckDBPyConnection) -> dict[str, Records]:
    """Where the real images behind each slice of the bank come from, by domain, the largest sources first."""
    found = records(
        connection,
        "SELECT domain, source, count(*) AS images FROM bank_members JOIN promoted USING (bank_id) GROUP BY domain, source "
        "QUALIFY row_number() OVER (PARTITION BY domain ORDER BY count(*) DESC, source) <= 8 "
        "ORDER BY domain, images DESC, source",
    )
    return {domain: [row for row in found if row["domain"] == domain] for domain in {row["domain"] for row in found}}


def precision_sql(line: float) -> str:
    """Returns the SQL for the share of generated images among those that the line flags."""
    return f"SELECT domain, flagged, expected_false, precision FROM expected_precision({number(line)})"


def by_review_sql(line: float) -> str:
    """Returns the SQL for how many decisions are a reviewer's."""
    decided = f"decided({number(line)}) WHERE decided_by = 'review'"
    return f"SELECT decision, count(*) AS images FROM {decided} GROUP BY decision ORDER BY decision"


def reviewed_precision_sql(line: float) -> str:
    """Returns the SQL for what reviewers say of flagged images: of a random sample, and of all reviewed if these are more."""
    return (
        "SELECT basis, flagged, looked_at, generated, real, undecided, precision, low, high "
        f"FROM precision_estimate({number(line)}) QUALIFY looked_at > coalesce(lag(looked_at) OVER (ORDER BY basis DESC), 0)"
    )


def line_of(slices: Records) -> float:
    """The budget that the report draws: 5 %, or the smallest that any slice can keep."""
    smallest: float = min(part["smallest_budget"] for part in slices)
    return max(_PREFERRED, smallest)


def edges_of(slices: Records, line: float) -> list[float]:
    """Upper edges of the bins of p-values: every usual budget that some slice can keep, the line, one half and one."""
    smallest = min(part["smallest_budget"] for part in slices)
    return sorted({edge for edge in BUDGETS if edge >= smallest} | {line, 0.5, 1.0})


def counts_sql(sources: Sources, edges: list[float], line: float) -> str:
    """Returns the SQL that counts images by source, domain, decision and bin of p-values."""
    cases = " ".join(f"WHEN p_value <= {number(edge)} THEN {number(edge)}" for edge in edges)
    return (
        f"SELECT {sources.expression} AS source, domain, in_support, decision,\n  (CASE {cases} END)::DOUBLE AS p_at_most, "
        f"count(*) AS images\nFROM decisions({number(line)}) GROUP BY ALL ORDER BY ALL"
    )


def null_share(low: float, high: float, images: int) -> float:
    """The share of real images whose p-value lies in (low, high], with that many calibration images.

    >>> null_share(0.0, 0.05, 99), null_share(0.0, 0.05, 9)
    (0.05, 0.0)
    """
    return (math.floor(high * (images + 1) + 1e-9) - math.floor(low * (images + 1) + 1e-9)) / (images + 1)


def histograms(counts: Records, sources: Sources, slices: Records, edges: list[float]) -> Records:
    """One histogram a source: share of its images in every bin, and the share that real images alone would give."""
    calibrated = {part["domain"]: part["images"] for part in slices}
    found = []
    for name in [*sources.names, *sorted({row["source"] for row in counts} - set(sources.names))]:
        own = [row for row in counts if row["source"] == name]
        decided = [row for row in own if row["in_support"]]
        images, covered = sum(row["images"] for row in own), sum(row["images"] for row in decided)
        by_domain = {domain: sum(row["images"] for row in decided if row["domain"] == domain) for domain in calibrated}
        bins = []
        for low, high in zip([0.0, *edges], edges, strict=False):
            at = [row for row in decided if row["p_at_most"] == high]
            expected = sum(n * null_share(low, high, calibrated[domain]) for domain, n in by_domain.items())
            bins.append({"low": low, "high": high, "images": sum(row["images"] for row in at), "expected": expected})
        flagged = sum(row["images"] for row in own if row["decision"] == "flagged")
        unsure = sum(row["images"] for row in own if row["decision"] == "unsure")
        found.append({"source": name, "images": images, "covered": covered, "flagged": flagged, "unsure": unsure, "bins": bins})
    return found


def score_lines(budgets: Records, calibration: Calibration) -> None:
    """Sets ``score`` of every budget: what scores above it is flagged."""
    scores = {part.domain: part.scores for part in calibration.slices}
    for row in budgets:
        of_slice = scores[row["domain"]]
        row["score"] = of_slice[-budget(len(of_slice), row["budget"]).rank]


def budget_rows(connection: duckdb.DuckDBPyConnection, counts: Records) -> Records:
    """Every budget of every slice: what it gives of real images, and how many images it flags here."""
    found = records(connection, BUDGET_TABLE)
    for row in found:
        covered = [entry for entry in counts if entry["domain"] == row["domain"] and entry["in_support"]]
        row["images"] = sum(entry["images"] for entry in covered)
        row["flagged"] = sum(entry["images"] for entry in covered if entry["p_at_most"] <= row["budget"])
    return found
