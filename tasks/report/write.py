"""`mdmf report`: gathers the figures and galleries of a warehouse and writes the report folder."""

from dataclasses import dataclass
from typing import Any

from mdmf_core.digests import short_id
from mdmf_core.errors import MdmfError
from tasks.report import facts, galleries
from tasks.report.folder import require_ours, write_folder
from tasks.report.page import render
from tasks.report.pictures import Pictures, limit_of, look, maps
from tasks.scoring.loading import bundled_with, load_setup
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.warehouse.query_rows import Records, records
from tasks.warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class NoEvidence:
    """Why the report has no evidence maps."""

    reason: str


def write_report(
    warehouse: Warehouse, title: str, storage_block: str | None, setup: ScoringSetup | NoEvidence, out: str | None = None
) -> str | None:
    """Writes the report on the promoted scorer and bank and gives its page's URL; None when no shard has come to an end.

    Args:
        setup: draws the evidence maps; it must be the promoted one, otherwise the page says why it has none.
        out: folder, local or s3://; ``WAREHOUSE.report`` by default.

    Raises:
        ArtifactError: ``out`` holds something that is not a report; nothing is written.
    """
    out = out or warehouse.report
    require_ours(out, storage_block)
    found = _gather(warehouse)
    if found is None:
        return None
    if isinstance(setup, ScoringSetup) and str(short_id(setup.key.calibration_id)) != found["lineage"]["calibration_id"]:
        setup = NoEvidence("the views show another bank or calibration than the one in use here")
    pictures = Pictures()
    _draw(found, setup, pictures, storage_block)
    return write_folder(out, render(found | {"title": title}), pictures.files, storage_block)


def load_evidence_setup(
    warehouse: Warehouse, scorer: str | None, bank: str | None, device: str, storage_block: str | None
) -> ScoringSetup | NoEvidence:
    """Loads the promoted scorer and bank from where the registry says that they lie, or says why they cannot be loaded.

    Args:
        scorer: in place of the one that the newest run with the promoted scorer names.
        bank: directory in place of the registry's.
    """
    with warehouse.connect(read_only=True) as connection:
        known = facts.lineage(connection)
        if known is None:
            return NoEvidence("the warehouse has no scorer yet")
        bundled = bundled_with(known["bank_id"])
        scorer = scorer or bundled or facts.scorer_reference(connection, known["scorer_id"])
    if scorer is None or (bank or known["bank_url"]) is None:
        return NoEvidence("the warehouse does not know where scorer and bank lie; pass --scorer and --bank")
    try:
        return load_setup(scorer, bank or bundled or known["bank_url"], device, 16, 0, storage_block, known["calibration_url"])
    except (MdmfError, ValueError, OSError) as error:
        return NoEvidence(f"scorer or bank cannot be loaded: {error}")


def _gather(warehouse: Warehouse) -> dict[str, Any] | None:
    """Gathers everything that the warehouse says, in one visit, so that it is not held open while pictures are read."""
    with warehouse.connect(read_only=True) as connection:
        known = facts.lineage(connection)
        if known is None or not records(connection, "SELECT 1 FROM accounting LIMIT 1"):
            return None
        slices = records(connection, "SELECT domain, images, smallest_budget FROM slices")
        line = facts.line_of(slices)
        sources = galleries.Sources.of(connection)
        edges = facts.edges_of(slices, line)
        counts = records(connection, facts.counts_sql(sources, edges, line), {"names": list(sources.names)})
        shown: Records = [
            {"gallery": gallery, "ids": galleries.select(connection, gallery, sources),
             "sql": galleries.shown_sql(gallery, sources)}
            for gallery in galleries.galleries(line)
        ]  # fmt: skip
        chosen = list(dict.fromkeys(identity for each in shown for identity in each["ids"]))
        images = galleries.details(connection, chosen, sources, line)
        return {
            "warehouse": warehouse.spelled,
            "lineage": known,
            "runs": facts.runs(connection, {row["run_id"] for row in images.values()}),
            "bank_sources": facts.bank_sources(connection),
            "line": line,
            "accounting": records(connection, facts.ACCOUNTING),
            "unfinished": records(connection, facts.UNFINISHED),
            "sources": sources,
            "edges": edges,
            "histograms": facts.histograms(counts, sources, slices, edges),
            "counts_sql": galleries.written_out(facts.counts_sql(sources, edges, line), sources),
            "budgets": facts.budget_rows(connection, counts),
            "prevalence": records(connection, facts.PREVALENCE),
            "precision": records(connection, facts.precision_sql(line)),
            "by_review": records(connection, facts.by_review_sql(line)),
            "reviewed_precision": records(connection, facts.reviewed_precision_sql(line)),
            "galleries": shown,
            "images": {identity: images[identity] for identity in chosen if identity in images},
            "excluded": galleries.excluded(connection),
        }


def _draw(found: dict[str, Any], setup: ScoringSetup | NoEvidence, pictures: Pictures, storage_block: str | None) -> None:
    """Sets thumbnails and evidence maps on the records of the chosen images."""
    loaded, found["no_evidence"] = (setup, None) if isinstance(setup, ScoringSetup) else (None, setup.reason)
    if loaded is not None:
        facts.score_lines(found["budgets"], loaded.calibration)
    evident = look(found["images"], loaded, pictures, storage_block)
    found["limit"] = limit_of(evident.values())
    for identity, each in evident.items():
        witness, density = (pictures.add(data, "png") for data in maps(each, found["limit"]))
        found["images"][identity]["evidence"] = {"witness_map": witness, "density_map": density} | each.facts
    left_out = {row["image_id"]: row for reason in found["excluded"] for row in reason["images"]}
    look(left_out, None, pictures, storage_block)
