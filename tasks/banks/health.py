"""The health of a bank is examined against itself, against its calibration, and against the corpus since it was built."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import ks_2samp

from mdmf_core.banks.bank import Bank
from mdmf_core.banks.calibration import Calibration
from mdmf_core.digests import short_id
from mdmf_core.mmd.two_sample import RANK, FeatureMap, TwoSample, halves, two_sample
from tasks.banks.left_out import reviewed_generated
from tasks.parts.kept_signatures import read_signatures, signatures_path
from tasks.parts.store import exists
from tasks.scoring.loading import load_bank, resolve_bank
from tasks.warehouse.warehouse import Warehouse

_OUTLIERS = 20  # members listed
_SHARDS = 20  # newest ones whose signatures tell of drift
_IMAGES = 2000  # compared at most
ALARM = 0.01  # p-value below which a comparison is called out of its band


@dataclass(frozen=True)
class SliceHealth:
    """The health of one slice of a bank."""

    domain: str
    images: int
    calibrated: int
    smallest_budget: float
    itself: TwoSample | None  # one half of the members against the other
    calibration_p: float | None  # Kolmogorov-Smirnov, members' scores against calibration scores
    corpus_images: int
    in_support: float | None  # share of them
    flagged_at_5: float | None
    drift: TwoSample | None  # recent images against the members

    def alarms(self) -> list[str]:
        """Lists what a curator should look at."""
        alarms = []
        if self.itself is not None and self.itself.p_value < ALARM:
            alarms.append(
                f"{self.domain}: the bank's halves differ (MMD^2 {self.itself.mmd2:.2g}, p {self.itself.p_value:.3f})"
            )
        if self.calibration_p is not None and self.calibration_p < ALARM:
            alarms.append(f"{self.domain}: members and calibration images score differently (p {self.calibration_p:.4f})")
        if self.drift is not None and self.drift.p_value < ALARM:
            alarms.append(
                f"{self.domain}: the corpus differs from the bank (MMD^2 {self.drift.mmd2:.2g} "
                f"[{self.drift.low:.2g}, {self.drift.high:.2g}], p {self.drift.p_value:.3f})"
            )
        return alarms


@dataclass(frozen=True)
class BankHealth:
    """The health of a whole bank, as `bank verify` and `bank-health` report it."""

    bank: str
    bank_id: str
    age_days: float | None
    slices: tuple[SliceHealth, ...]
    outside: int  # corpus images that no slice covers
    outliers: tuple[dict[str, Any], ...]  # members least like the rest: candidates to look at and to expel
    alarms: tuple[str, ...]

    def markdown(self) -> str:
        """Returns the findings as Markdown, for an artifact or a terminal."""
        age = "" if self.age_days is None else f", {self.age_days:.0f} days old"
        lines = [f"Bank `{self.bank}` ({self.bank_id[:12]}){age}: {'; '.join(self.alarms) or 'all in band'}", ""]
        lines.append(
            "| slice | members | calibrated | budgets from | halves MMD² (p) | calibration p | corpus | at 5 % | drift (p) |"
        )
        lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for part in self.slices:
            lines.append(
                f"| {part.domain} | {part.images} | {part.calibrated} | {part.smallest_budget:.4f} | {_cell(part.itself)} | "
                f"{_number(part.calibration_p)} | {part.corpus_images} | {_number(part.flagged_at_5)} | {_cell(part.drift)} |"
            )
        if self.outside:
            lines.append(f"\n{self.outside} corpus images lie outside every slice: they are unsure.")
        if self.outliers:
            lines += [
                "\nMembers least like the rest (look at them; `bank build --expel FILE` leaves them out of the next version):\n"
            ]
            lines += ["| sha256 | key | slice | p |", "|---|---|---|---:|"]
            lines += [f"| `{row['sha256']}` | {row['key']} | {row['domain']} | {row['p_value']:.4f} |" for row in self.outliers]
        return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cell(test: TwoSample | None) -> str:
    return "" if test is None else f"{test.mmd2:.2g} ({test.p_value:.3f})"


def health(bank: str, calibration: str | None, warehouse: str, scorer: str, storage_block: str | None) -> BankHealth:
    """Examines the bank that a name, an alias or a directory means against itself, its calibration and the corpus.

    Raises:
        ArtifactError: a bank or calibration that is unknown or damaged.
    """
    registry = Warehouse.at(warehouse)
    url, calibration_url = resolve_bank(registry, scorer, bank, calibration)
    loaded, calibrated = load_bank(url, calibration_url, storage_block)
    return examine(loaded, calibrated, registry if registry.exists() else None)


def examine(bank: Bank, calibration: Calibration, warehouse: Warehouse | None) -> BankHealth:
    """Examines a bank by what it holds, and where a warehouse is given by its rows and kept signatures."""
    counted, age, recent = _corpus(bank, calibration, warehouse) if warehouse is not None else ({}, None, {})
    slices = []
    outliers: list[dict[str, Any]] = []
    for part, calibrated in zip(bank.slices, calibration.slices, strict=True):
        own = [at for at, member in enumerate(bank.members) if member.domain == part.domain]
        members = [bank.members[at] for at in own]
        features = None if bank.features is None else bank.features[own].numpy()
        scores = np.array([member.score for member in members if member.score is not None])
        row = counted.get(part.domain, {"images": 0, "in_support": None, "flagged": None})
        slices.append(
            SliceHealth(
                part.domain, len(members), len(calibrated.scores), calibrated.smallest_budget,
                _itself(features, [member.sha256 for member in members]),
                float(ks_2samp(scores, calibrated.scores).pvalue) if len(scores) > 1 else None,
                row["images"], row["in_support"], row["flagged"], _drift(features, recent.get(part.domain)),
            )
        )  # fmt: skip
        if len(scores) == len(members):
            p_values = calibrated.p_values(scores)
            outliers += [
                {"sha256": m.sha256, "key": m.key, "domain": m.domain, "p_value": float(p)}
                for m, p in zip(members, p_values, strict=True)
                if p <= max(ALARM, calibrated.smallest_budget)
            ]
    outliers.sort(key=lambda row: row["p_value"])
    alarms = (*(alarm for part in slices for alarm in part.alarms()), *_reviewed(bank, calibration, warehouse))
    outside = counted.get("", {"images": 0})["images"]
    return BankHealth(bank.name, bank.bank_id, age, tuple(slices), outside, tuple(outliers[:_OUTLIERS]), alarms)


def _reviewed(bank: Bank, calibration: Calibration, warehouse: Warehouse | None) -> list[str]:
    """Raises alarms for images of the bank or its calibration that reviewers call generated."""
    generated = reviewed_generated(warehouse)
    members = [member.key for member in bank.members if member.sha256 in generated]
    held_out = [sha256[:12] for part in calibration.slices for sha256 in part.sha256s if sha256 in generated]
    return [
        f"{len(images)} images of the {whose} are reviewed as generated ({', '.join(sorted(images)[:5])}); {remedy}"
        for images, whose, remedy in (
            (members, "bank", "build its next version"),
            (held_out, "calibration", "calibrate again"),
        )
        if images
    ]


def _itself(features: Float[np.ndarray, "n r"] | None, sha256s: list[str]) -> TwoSample | None:
    if features is None or len(features) < 4:
        return None
    side = halves(sha256s)
    return two_sample(features[side], features[~side])


def _drift(features: Float[np.ndarray, "n r"] | None, recent: list[Float[np.ndarray, " r"]] | None) -> TwoSample | None:
    if features is None or recent is None or min(len(recent), len(features)) < 2:
        return None
    return two_sample(np.stack(recent), features)


def _corpus(
    bank: Bank, calibration: Calibration, warehouse: Warehouse
) -> tuple[dict[str, dict[str, Any]], float | None, dict[str, list[Float[np.ndarray, " r"]]]]:
    """Returns counts by domain ("" = outside every slice), the bank's age in days, and features of recent images by domain."""
    ids = [str(short_id(bank.bank_id)), str(short_id(calibration.calibration_id))]
    with warehouse.connect(read_only=True) as connection:
        rows = connection.execute(
            "SELECT domain, count(*), count(*) FILTER (in_support), count(*) FILTER (in_support AND p_value <= 0.05) "
            "FROM scores WHERE bank_id = ? AND calibration_id = ? GROUP BY domain",
            ids,
        ).fetchall()
        registered = connection.execute("SELECT registered_at FROM banks WHERE bank_id = ?", ids[:1]).fetchone()
        shards = connection.execute(
            "SELECT sh.shard_id::VARCHAR, sh.url, sh.size_bytes, sh.fingerprint, s.digest FROM shards sh "
            "JOIN scorers s USING (scorer_id) WHERE sh.state = 'complete' AND NOT sh.superseded AND sh.bank_id = ? "
            "AND sh.calibration_id = ? ORDER BY committed_at DESC",
            ids,
        ).fetchall()
        recent: dict[str, list[Float[np.ndarray, " r"]]] = {}
        maps = {part.domain: FeatureMap.of(part.points, part.sigma) for part in bank.slices}
        for shard_id, *where in shards[:_SHARDS]:
            domains = dict(
                connection.execute(
                    "SELECT i.key, s.domain FROM scores s JOIN images i USING (image_id, shard_id) WHERE s.shard_id = ? "
                    "AND s.bank_id = ? AND s.calibration_id = ? AND s.in_support",
                    [shard_id, *ids],
                ).fetchall()
            )
            _add_features(recent, maps, domains, signatures_path(warehouse.parts, *where))
    counted = {
        domain: {"images": n, "in_support": inside / n, "flagged": flagged / inside if inside else None}
        for domain, n, inside, flagged in rows
    }
    counted[""] = {"images": sum(n - inside for _, n, inside, _ in rows)}
    age = None if registered is None else (datetime.now(UTC) - registered[0]).total_seconds() / 86400
    return counted, age, recent


def _add_features(
    recent: dict[str, list[Float[np.ndarray, " r"]]], maps: dict[str, FeatureMap], domains: dict[str, str], path: str
) -> None:
    if not exists(path):
        return
    for kept in read_signatures(path, 256):
        start = 0
        for key, count in zip(kept.keys, kept.signatures.counts, strict=True):
            domain = domains.get(key)
            if domain is not None and len(recent.setdefault(domain, [])) < _IMAGES:
                vector = maps[domain].images(kept.signatures.vectors[start : start + count], [count])[0].numpy()
                recent[domain].append(np.pad(vector, (0, RANK - len(vector))))
            start += count
