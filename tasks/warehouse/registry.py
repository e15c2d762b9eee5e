"""The registry in the warehouse: scorers, banks by name and version, calibrations, and the history of promotions."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import duckdb
import pandas as pd

from mdmf_core.banks.bank import Bank
from mdmf_core.banks.calibration import BUDGETS, Calibration, budget
from mdmf_core.digests import short_id
from mdmf_core.errors import ArtifactError
from mdmf_core.scoring.scorer import ScorerCard

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


def register_scorer(connection: duckdb.DuckDBPyConnection, scorer: ScorerCard) -> None:
    """Enters a scorer with its card, unless it is there."""
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
    """Enters a bank under the next version of its name; a known bank keeps its name and version."""
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
    """Enters a calibration under the next version of its bank, with its slices and what every usual budget gives."""
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
    """Returns every bank with every calibration of it, oldest first."""
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
