"""The registry in the warehouse: scorers, banks by name and version, calibrations, and the history of promotions."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import pandas as pd

from mdmf_core.banks import Bank
from mdmf_core.calibration import BUDGETS, Calibration, budget
from mdmf_core.digests import short_id
from mdmf_core.errors import ArtifactError
from mdmf_core.scoring import Scorer
from tasks.kit import ScoringKit

_NAMED = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(@(?P<version>\d+))?$")


@dataclass(frozen=True)
class BankEntry:
    """One bank as the registry knows it, with the calibration that goes with it."""

    bank_id: str
    scorer_id: str
    name: str
    version: int
    url: str | None  # directory, or the name of a bundled one; None = known only from an older warehouse
    calibration_id: str
    calibration_version: int
    calibration_url: str | None  # None = the one in the bank's directory
    retired: bool

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"


_ENTRIES = """
SELECT b.bank_id::VARCHAR, b.scorer_id::VARCHAR, b.name, b.version, b.url, c.calibration_id::VARCHAR, c.version, c.url,
       b.retired_at IS NOT NULL
FROM banks b JOIN calibrations c USING (bank_id)
"""


def register(connection: duckdb.DuckDBPyConnection, kit: ScoringKit) -> None:
    """Writes down scorer, bank and calibration where they are not known yet; call it in a transaction."""
    register_scorer(connection, kit.scorer)
    register_bank(connection, kit.bank, kit.bank_url)
    register_calibration(connection, kit.calibration, kit.calibration_url)


def register_scorer(connection: duckdb.DuckDBPyConnection, scorer: Scorer) -> None:
    """A scorer's row with its card."""
    identity = str(short_id(scorer.scorer_id))
    if connection.execute("SELECT 1 FROM scorers WHERE scorer_id = ?", [identity]).fetchall():
        return
    card = {
        "backbone": dict(scorer.backbone_record),
        "crops": asdict(scorer.crops),
        "statistic": {"terms": dict(scorer.statistic.terms), "k": scorer.statistic.k},
        "sigma": scorer.sigma,
    }
    connection.execute(
        "INSERT INTO scorers VALUES (?, ?, ?, ?, ?)",
        [identity, scorer.name, scorer.scorer_id, json.dumps(card), datetime.now(UTC)],
    )


def register_bank(connection: duckdb.DuckDBPyConnection, bank: Bank, url: str) -> None:
    """A bank under the next version of its name; one that is known keeps its name and version."""
    identity = str(short_id(bank.bank_id))
    if connection.execute("SELECT 1 FROM banks WHERE bank_id = ?", [identity]).fetchall():
        return
    connection.execute(
        "INSERT INTO banks (bank_id, scorer_id, name, digest, points, patches, images, sigma, coreset_error, registered_at, "
        "version, url) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, coalesce(max(version), 0) + 1, ? FROM banks WHERE name = ?",
        [identity, str(short_id(bank.scorer_id)), bank.name, bank.bank_id, bank.points, bank.patches, len(bank.members),
         bank.sigma, bank.coreset_error, datetime.now(UTC), url, bank.name],
    )  # fmt: skip
    connection.register("members", pd.DataFrame([asdict(member) for member in bank.members]))
    connection.execute("INSERT INTO bank_members SELECT ?::UUID, source, key, sha256, domain, licence FROM members", [identity])
    connection.unregister("members")


def register_calibration(connection: duckdb.DuckDBPyConnection, calibration: Calibration, url: str | None) -> None:
    """A calibration under the next version of its bank, its slices, and what every usual budget gives."""
    identity, bank = str(short_id(calibration.calibration_id)), str(short_id(calibration.bank_id))
    if connection.execute("SELECT 1 FROM calibrations WHERE calibration_id = ?", [identity]).fetchall():
        return
    connection.execute(
        "INSERT INTO calibrations (calibration_id, scorer_id, bank_id, domain, digest, images, smallest_budget, "
        "registered_at, version, url) SELECT ?, ?, ?, ?, ?, ?, ?, ?, coalesce(max(version), 0) + 1, ? "
        "FROM calibrations WHERE bank_id = ?",
        [identity, str(short_id(calibration.scorer_id)), bank, "; ".join(part.domain for part in calibration.slices),
         calibration.calibration_id, calibration.images, calibration.smallest_budget, datetime.now(UTC), url, bank],
    )  # fmt: skip
    for part in calibration.slices:
        images = len(part.scores)
        connection.execute(
            "INSERT INTO calibration_slices VALUES (?, ?, ?, ?)", [identity, part.domain, images, part.smallest_budget]
        )
        for fpr in BUDGETS:
            if fpr >= part.smallest_budget:
                found = budget(images, fpr)
                connection.execute(
                    "INSERT INTO calibration_budgets VALUES (?, ?, ?, ?, ?, ?)",
                    [identity, part.domain, fpr, found.low, found.high, found.sure_line],
                )


def entries(connection: duckdb.DuckDBPyConnection) -> list[BankEntry]:
    """Every bank with every calibration of it, oldest first."""
    return [BankEntry(*row) for row in connection.execute(f"{_ENTRIES} ORDER BY b.name, b.version, c.version").fetchall()]


def find(connection: duckdb.DuckDBPyConnection, reference: str, calibration: int | None = None) -> BankEntry:
    """The bank that ``name@3``, ``name`` (its newest version), an id, or ``@alias`` means; with its newest calibration, the one
    asked for, or the one that was promoted with it.

    Raises:
        ArtifactError: nothing of that name or number; an alias that points nowhere.
    """
    known = entries(connection)
    if reference.startswith("@"):
        found = _promoted(connection, reference[1:], known)
    else:
        matched = _NAMED.match(reference)
        name, version = (matched["name"], matched["version"]) if matched else (reference, None)
        found = [e for e in known if e.name == name and (version is None or e.version == int(version))]
        found = found or [
            e for e in known if len(reference) >= 8 and e.bank_id.replace("-", "").startswith(reference.replace("-", ""))
        ]
        if version is None:
            found = [e for e in found if not e.retired] or found
        if not found:
            titles = sorted({e.title for e in known})
            raise ArtifactError(f"no bank {reference!r} in the registry; there are {', '.join(titles) or 'none'}")
    if calibration is not None:
        newest = max(e.version for e in found)
        bank_ids = {e.bank_id for e in found if e.version == newest}
        found = [e for e in known if e.bank_id in bank_ids and e.calibration_version == calibration]
        if not found:
            raise ArtifactError(f"bank {reference!r} has no calibration {calibration}")
    return max(found, key=lambda e: (e.version, e.calibration_version))


def _promoted(connection: duckdb.DuckDBPyConnection, alias: str, known: list[BankEntry]) -> list[BankEntry]:
    row = connection.execute(
        "SELECT bank_id::VARCHAR, calibration_id::VARCHAR FROM bank_aliases WHERE alias = ? ORDER BY promoted_at DESC LIMIT 1",
        [alias],
    ).fetchone()
    if row is None:
        aliases = [name for (name,) in connection.execute("SELECT DISTINCT alias FROM bank_aliases ORDER BY alias").fetchall()]
        raise ArtifactError(f"alias @{alias} points nowhere; there are {', '.join('@' + name for name in aliases) or 'none'}")
    return [e for e in known if (e.bank_id, e.calibration_id) == row]


def promote(connection: duckdb.DuckDBPyConnection, entry: BankEntry, alias: str) -> None:
    """Points an alias at a bank with its calibration; the earlier ones stay in the history.

    Raises:
        ArtifactError: a retired bank.
    """
    if entry.retired:
        raise ArtifactError(f"{entry.title} is retired; it cannot be promoted")
    connection.execute(
        "INSERT INTO bank_aliases VALUES (?, ?, ?, ?, ?)",
        [alias, entry.scorer_id, entry.bank_id, entry.calibration_id, datetime.now(UTC)],
    )


def rollback(connection: duckdb.DuckDBPyConnection, alias: str) -> BankEntry:
    """Points an alias at what it pointed at before the newest promotion of something else.

    Raises:
        ArtifactError: there is no earlier promotion.
    """
    current = find(connection, f"@{alias}")
    # Promotions that were rolled back are no way back: each rollback goes one further into the past.
    history: list[tuple[str, str]] = []
    for pair in connection.execute(
        "SELECT bank_id::VARCHAR, calibration_id::VARCHAR FROM bank_aliases WHERE alias = ? ORDER BY promoted_at", [alias]
    ).fetchall():
        if len(history) > 1 and history[-2] == pair:
            history.pop()
        elif not history or history[-1] != pair:
            history.append(pair)
    if len(history) < 2:
        raise ArtifactError(f"@{alias} has always been {current.title}; there is nothing to go back to")
    (entry,) = [e for e in entries(connection) if (e.bank_id, e.calibration_id) == history[-2]]
    promote(connection, entry, alias)
    return entry


def retire(connection: duckdb.DuckDBPyConnection, entry: BankEntry) -> None:
    """Takes a bank out of use under its name. Its rows and its directory stay.

    Raises:
        ArtifactError: an alias points at it.
    """
    aliases = [name for (name,) in connection.execute("SELECT DISTINCT alias FROM bank_aliases").fetchall()]
    holding = [name for name in aliases if find(connection, f"@{name}").bank_id == entry.bank_id]
    if holding:
        raise ArtifactError(f"{entry.title} is @{', @'.join(holding)}; promote another bank first")
    connection.execute("UPDATE banks SET retired_at = ? WHERE bank_id = ?", [datetime.now(UTC), entry.bank_id])


def listing(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """One row per bank and calibration, with the aliases that point there and the images scored."""
    aliases: dict[tuple[str, str], list[str]] = {}
    for (name,) in connection.execute("SELECT DISTINCT alias FROM bank_aliases ORDER BY alias").fetchall():
        entry = find(connection, f"@{name}")
        aliases.setdefault((entry.bank_id, entry.calibration_id), []).append(f"@{name}")
    rows = _rows(
        connection,
        "SELECT b.name || '@' || b.version AS bank, c.version AS cal, '' AS alias, b.images, c.images AS calibrated, "
        "c.smallest_budget AS fpr_from, coalesce(sum(s.scored), 0)::BIGINT AS scored, b.bank_id::VARCHAR AS bank_id, "
        "c.calibration_id::VARCHAR AS calibration_id, b.retired_at IS NOT NULL AS retired, b.registered_at "
        "FROM banks b JOIN calibrations c USING (bank_id) "
        "LEFT JOIN shards s ON s.bank_id = b.bank_id AND s.calibration_id = c.calibration_id AND NOT s.superseded "
        "GROUP BY ALL ORDER BY b.registered_at, c.version",
        [],
    )
    for row in rows:
        retired = ["retired"] if row.pop("retired") else []
        del row["registered_at"]
        row["alias"] = " ".join(aliases.get((row.pop("bank_id"), row.pop("calibration_id")), []) + retired)
    return rows


Rows = list[dict[str, Any]]


def describe(
    connection: duckdb.DuckDBPyConnection, reference: str, calibration: int | None
) -> tuple[dict[str, Any], Rows, Rows]:
    """A bank's facts, what its budgets give, and the history of its promotions."""
    entry = find(connection, reference, calibration)
    digest, points, patches, images, sigma, error, registered, scorer = connection.execute(
        "SELECT b.digest, b.points, b.patches, b.images, b.sigma, b.coreset_error, b.registered_at, s.name || ' ' || s.digest "
        "FROM banks b LEFT JOIN scorers s USING (scorer_id) WHERE bank_id = ?",
        [entry.bank_id],
    ).fetchall()[0]
    facts = {
        "bank": entry.title + (" (retired)" if entry.retired else ""), "id": digest, "scorer": scorer, "lies at": entry.url,
        "registered": f"{registered:%Y-%m-%d %H:%M}", "images": images, "patches": patches, "points": points,
        "error": f"{error:.5f}", "bandwidth": f"{sigma:.4f}",
        "calibration": f"{entry.calibration_version} ({entry.calibration_url or 'in its directory'})",
    }  # fmt: skip
    budgets = _rows(
        connection,
        "SELECT s.domain, s.images, b.budget, b.low, b.high, b.sure_line FROM calibration_slices s "
        "LEFT JOIN calibration_budgets b USING (calibration_id, domain) WHERE s.calibration_id = ? ORDER BY ALL",
        [entry.calibration_id],
    )
    history = _rows(
        connection,
        "SELECT a.alias, strftime(a.promoted_at, '%Y-%m-%d %H:%M:%S') AS promoted_at, c.version AS calibration "
        "FROM bank_aliases a JOIN calibrations c USING (calibration_id) WHERE a.bank_id = ? ORDER BY a.promoted_at",
        [entry.bank_id],
    )
    return facts, budgets, history


def difference(connection: duckdb.DuckDBPyConnection, bank_a: str, bank_b: str, fpr: float) -> tuple[Rows, Rows]:
    """The two banks' facts side by side, and the images that crossed the line."""
    a, b = find(connection, bank_a), find(connection, bank_b)
    if a.scorer_id != b.scorer_id:
        raise ArtifactError(f"{a.title} and {b.title} were built with different scorers ({a.scorer_id}, {b.scorer_id})")
    counts = {
        title: _rows(
            connection,
            "SELECT version, points, patches, coreset_error AS error, images, "
            "(SELECT count(*) FROM (SELECT sha256 FROM bank_members m WHERE m.bank_id = b.bank_id "
            " EXCEPT SELECT sha256 FROM bank_members o WHERE o.bank_id = ?)) AS images_only_here "
            "FROM banks b WHERE bank_id = ?",
            [other.bank_id, one.bank_id],
        )[0]
        for title, one, other in ((bank_a, a, b), (bank_b, b, a))
    }
    facts = [{"": name, bank_a: counts[bank_a][name], bank_b: counts[bank_b][name]} for name in counts[bank_a]]
    crossed = _rows(connection, "SELECT * FROM crossed(?, ?, ?)", [a.bank_id, b.bank_id, fpr])
    return facts, crossed


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any]) -> Rows:
    rows = connection.execute(sql, parameters).fetchall()
    names = [column[0] for column in connection.description or []]
    return [dict(zip(names, row, strict=True)) for row in rows]
