"""A bank's coreset against all of its patches: error of the scores, AUROC, speed, and the time to build one.

The bank is a third of all patches of half of the real images; other real and generated images are scored against it, exactly
and compressed. The million patches of the last line are these patches with 1 % noise.

Run: python benchmarks/stages/coreset.py DATA
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from mdmf_core.banks.assembly import RealImage, in_bank_half
from mdmf_core.banks.bank import Slice
from mdmf_core.mmd.coreset import BLOCK_POINTS, Coreset, compress
from mdmf_core.scoring.scorer import Scorer
from mdmf_core.training.figures import auroc
from tasks.banks.real_images import collect, spooled
from tasks.scoring.loading import load_scorer

SIZES = (100, 300, 1000, 3000)


def scored(scorer: Scorer, part: Slice, images: list[RealImage]) -> tuple[np.ndarray, np.ndarray, float]:
    """(scores, mmd2, images per second): the median rate of three passes."""
    vectors = [image.signatures() for image in images]
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        scores, mmd2 = [], []
        for start in range(0, len(vectors), 8):
            some = vectors[start : start + 8]
            terms = scorer.terms(torch.cat(some), [len(v) for v in some], (part,)).slice(0)
            scores.append(scorer.statistic.score(terms).numpy())
            mmd2.append(terms.mmd2.numpy())
        rates.append(len(vectors) / (time.perf_counter() - started))
    return np.concatenate(scores), np.concatenate(mmd2), float(np.median(rates))


def main(data: Path) -> None:
    scorer = load_scorer("forensic", "cpu")
    sigma = scorer.sigma
    if sigma is None:
        raise SystemExit("the scorer has no bandwidth")
    with spooled() as append:
        real, _ = collect(str(data / "real"), scorer, 5000, "photo", None, append)
        made, _ = collect(str(data / "generated"), scorer, 5000, "photo", None, append)
        patches = torch.cat([image.signatures()[::3] for image in real if in_bank_half(image)])
        test = [image for image in real if not in_bank_half(image)][::4] + made[::6]
        generated = np.array([image.member.source.endswith("generated") for image in test])
        uniform = torch.full((len(patches),), 1 / len(patches), dtype=torch.float64)
        whole = Slice.of("all", Coreset(patches, uniform, 0.0, len(patches)), len(real), sigma)
        exact, exact_mmd2, exact_rate = scored(scorer, whole, test)
        exact_auroc = auroc(exact[generated], exact[~generated])
        print(f"{len(patches)} patches, {len(test)} images, AUROC {exact_auroc:.4f}, {exact_rate:.0f} images/s\n")
        print("| method | points | certificate | largest error of MMD | median error of the score | AUROC | speed | build |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for method in ("herding", "nystrom", "thinning"):
            for size in SIZES:
                started = time.perf_counter()
                core = compress(iter(torch.split(patches, BLOCK_POINTS)), size, sigma, method)
                seconds = time.perf_counter() - started
                found, mmd2, rate = scored(scorer, Slice.of("core", core, len(real), sigma), test)
                gap = np.abs(np.sqrt(mmd2.clip(0)) - np.sqrt(exact_mmd2.clip(0))).max()
                error = np.median(np.abs(found - exact)) / exact.std()
                change = auroc(found[generated], found[~generated]) - exact_auroc
                print(
                    f"| {method} | {len(core.points)} | {core.error:.4f} | {gap:.4f} | {error:.4f} | {change:+.4f} | "
                    f"{rate / exact_rate:.0f}x | {seconds:.1f} s |",
                    flush=True,
                )

    def million() -> object:
        for number in range(50):
            rows = torch.randint(len(patches), (BLOCK_POINTS,), generator=torch.Generator().manual_seed(number))
            yield patches[rows] * (1 + 0.01 * torch.randn(BLOCK_POINTS, patches.shape[1]))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    core = compress(million(), 1000, sigma)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\n{core.source_points} patches: certificate {core.error:.4f}, {seconds:.0f} s, {grown:.0f} MB more")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
