"""What share of real images is really flagged at a budget: images like those of the calibration, and sources that it never saw.

Real images are dealt three ways by source: bank, calibration, test. Of the trained scorer only images that its PFS has not seen
are used. Prints the tables of docs/banks.md.

Run: python benchmarks/detection/realised_fpr.py DATA [SPLITS]
"""

import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from mdmf_core.banks.assembly import RealImage, assemble, calibrate
from mdmf_core.banks.calibration import budget
from mdmf_core.scoring.scorer import Scorer, Signatures
from tasks.banks.real_images import collect, spooled
from tasks.scoring.loading import load_scorer

BUDGETS = (0.01, 0.05, 0.1)
DOMAINS = {"bsds500": "photo", "imagenet_sample": "photo", "faces_ciplab": "face", "clothing_phone": "product"}
FOREIGN = {"horses_cyclegan_pair": "horse", "wesnoth_art": "art"}  # too few for a slice of their own
TRAINING = Path(__file__).parents[2] / "scorers" / "forensic" / "training.parquet"


def laid_out(data: Path, work: Path) -> Path:
    """The real images as DOMAIN/SOURCE@NAME."""
    shutil.rmtree(work, ignore_errors=True)
    with (data / "manifest.csv").open() as file:
        for row in csv.DictReader(file):
            if row["label"] == "real":
                folder = work / (DOMAINS | FOREIGN)[row["set"]]
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(data / row["file"], folder / f"{row['set']}@{Path(row['file']).name}")
    return work


def source_of(image: RealImage) -> str:
    return image.member.key.split("/")[1].split("@")[0]


def p_values(scorer: Scorer, bank_images: list[RealImage], held: list[RealImage], test: list[RealImage]) -> np.ndarray:
    """p-values of test images as `curate` gives them; 2 where an image is unsure."""
    bank = assemble(scorer, bank_images, "b", 1000, "herding")
    calibration = calibrate(scorer, bank, held)
    vectors = [image.signatures() for image in test]
    embeddings = torch.from_numpy(np.stack([image.embedding for image in test]))
    found = []
    for start in range(0, len(test), 64):
        some = vectors[start : start + 64]
        signatures = Signatures(torch.cat(some), [len(part) for part in some], embeddings[start : start + 64])
        found += scorer.score(signatures, [image.shape for image in test[start : start + 64]], bank, calibration)
    return np.array([row.p_value if row.in_support else 2.0 for row in found])


def three_ways(images: Sequence[RealImage], seed: int) -> tuple[list[RealImage], list[RealImage], list[RealImage]]:
    """Bank, calibration and test, a third of every source each."""
    random = np.random.default_rng(seed)
    parts: tuple[list[RealImage], list[RealImage], list[RealImage]] = ([], [], [])
    for source in sorted({source_of(image) for image in images}):
        own = [image for image in images if source_of(image) == source]
        for at, index in enumerate(random.permutation(len(own)).tolist()):
            parts[at % 3].append(own[index])
    return parts


def print_row(title: str, name: str, images: int, p: np.ndarray) -> None:
    shares = " | ".join(f"{(p <= fpr).mean():.3f}" for fpr in BUDGETS)
    print(f"| {title} | {name} | {images} | {(p > 1).mean():.2f} | {shares} |")


def main(data: Path, splits: int) -> None:
    folder = laid_out(data, Path(".mdmf/realised-fpr"))
    roles = {row["sha256"]: row["role"] for row in pq.read_table(TRAINING).to_pylist()}
    scorer = load_scorer("forensic", "cpu")
    print("| test | images of | n | unsure | at 1 % | at 5 % | at 10 % |\n|---|---|---:|---:|---:|---:|---:|")
    with spooled() as append:
        images, _ = collect(str(folder), scorer, 5000, "folder", None, append)
        images = [image for image in images if roles.get(image.member.sha256) != "pfs"]
        known = [image for image in images if source_of(image) in DOMAINS]
        pooled: dict[str, list[np.ndarray]] = {}
        held: list[RealImage] = []
        for seed in range(splits):
            bank, held, test = three_ways(known, seed)
            p = p_values(scorer, bank, held, test)
            domains = np.array([image.member.domain for image in test])
            for domain in np.unique(domains).tolist():
                pooled.setdefault(domain, []).append(p[domains == domain])
        for domain, found in pooled.items():
            print_row(f"sources of the calibration, {splits} deals", domain, len(found[0]), np.concatenate(found))
            n = sum(image.member.domain == domain for image in held)
            kept = [budget(n, fpr) if fpr * (n + 1) >= 1 else None for fpr in BUDGETS]
            ranges = " | ".join("-" if range_ is None else f"{range_.low:.3f} to {range_.high:.3f}" for range_ in kept)
            print(f"| 90 % range for {n} calibration images | {domain} | | | {ranges} |")
        bank, held, _ = three_ways(known, 0)
        for source in DOMAINS | FOREIGN:
            test = [image for image in images if source_of(image) == source]
            others = [[image for image in part if source_of(image) != source] for part in (bank, held)]
            known_domain = any(image.member.domain == (DOMAINS | FOREIGN)[source] for image in others[1])
            title = "source never seen, its domain known" if known_domain else "domain never seen"
            print_row(title, source, len(test), p_values(scorer, *others, test))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10)
