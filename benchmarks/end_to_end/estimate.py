"""What one H100 with 16 cores would do, on paper: measured decoding, published arithmetic, a stated utilisation.

python -m benchmarks.end_to_end.estimate

No GPU was at hand. Decoding and the embedded scorer's stages are this machine's, per core, from results/embedded.json; what the
one scoring process itself does per image (reading, digests, feeding decoders, rows) from results/growth.json; the backbone is
its floating-point operations over a share of the card's published dense bfloat16 rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.end_to_end.growth import CPU
from benchmarks.harness.compare import number
from benchmarks.harness.frame import Result

RESULTS = Path(__file__).parents[1] / "results"
CORES = 16
H100 = 989e12  # FLOP/s, dense bfloat16, SXM, as NVIDIA publishes it
UTILISATION = 0.40  # of it, in a ViT's forward pass
POINTS = 1000  # of a bank
KIND = "256 px, as LAION"
MARKS = ("<!-- estimate -->", "<!-- /estimate -->")


@dataclass(frozen=True)
class Vit:
    """A vision transformer's shape. ``tokens`` without class and registers."""

    name: str
    depth: int
    width: int
    tokens: int
    patch: int

    @property
    def flop(self) -> float:
        """Of one image: two for each multiply and add in projections, MLP (4 x wide) and attention.

        >>> round(Vit("B/16", 12, 768, 196, 16).flop / 2e9, 1)  # timm states 17.6 billion multiply-adds
        17.6
        """
        sequence = self.tokens + 1
        block = sequence * (12 * self.width**2 + 2 * sequence * self.width)
        return 2.0 * (self.depth * block + self.tokens * 3 * self.patch**2 * self.width)

    @property
    def mmd_flop(self) -> float:
        """Of one image's patches against a bank and each other."""
        return 2.0 * self.tokens * self.width * (POINTS + self.tokens)


VITS = (Vit("CLIP ViT-B/16", 12, 768, 196, 16), Vit("DINOv2 ViT-L/14", 24, 1024, 256, 14))


@dataclass(frozen=True)
class Measured:
    """CPU milliseconds per image on one core."""

    decode: float
    features: float  # of the embedded scorer, as the next
    scores: float
    process: float  # of the process that scores, besides backbone and statistics


@dataclass(frozen=True)
class Estimate:
    """Images per second of each side of a pipeline that overlaps them, and how each was worked out."""

    name: str
    limits: Mapping[str, float]
    how: Mapping[str, str]

    @property
    def bound(self) -> str:
        """The side that decides."""
        return min(self.limits, key=lambda side: self.limits[side])

    @property
    def rate(self) -> float:
        return self.limits[self.bound]


def estimates(cost: Measured) -> list[Estimate]:
    """For each backbone; one core is the scoring process's own, the others decode."""
    found = []
    for vit in VITS:
        limits = {
            "decode-bound": 1000 * (CORES - 1) / cost.decode,
            "backbone-bound": UTILISATION * H100 / (vit.flop + vit.mmd_flop),
            "process-bound": 1000 / cost.process,
        }
        how = {
            "decode-bound": f"{CORES - 1} cores / {cost.decode:.2f} ms",
            "backbone-bound": f"{UTILISATION:.0%} of {H100 / 1e12:.0f} TFLOP/s / "
            f"({vit.flop / 1e9:.1f} + {vit.mmd_flop / 1e9:.2f}) GFLOP",
            "process-bound": f"1 core / {cost.process:.2f} ms",
        }
        found.append(Estimate(vit.name, limits, how))
    spent = cost.decode + cost.features + cost.scores
    why = f"{CORES} cores / ({cost.decode:.2f} + {cost.features:.2f} + {cost.scores:.2f}) ms"
    return [*found, Estimate("embedded, without the GPU", {"core-bound": 1000 * CORES / spent}, {"core-bound": why})]


def table(cost: Measured) -> str:
    """The estimates as markdown, with the arithmetic in each row."""
    rows = ["| scorer | images/s | 100 million images | limit | every side, images/s |", "|---|---:|---:|---|---|"]
    for one in estimates(cost):
        sides = "; ".join(f"{side.split('-')[0]} {number(rate)} = {one.how[side]}" for side, rate in one.limits.items())
        rows.append(f"| {one.name} | **{number(one.rate)}** | {1e8 / one.rate / 3600:.0f} h | {one.bound} | {sides} |")
    return "\n".join(rows)


def measured(results: Path = RESULTS) -> Measured:
    """What ``embedded`` and ``growth`` found.

    Raises:
        FileNotFoundError: one of them has not run yet.
    """
    stages = _parts(results / "embedded.json", KIND)
    process = _parts(results / "growth.json", "seconds of each further image, late over early")
    return Measured(stages["decode"], stages["features"], stages["scores"], process[CPU])


def _parts(path: Path, ending: str) -> dict[str, float]:
    (record,) = [record for record in Result.read(path).records if record.name.endswith(ending)]
    return {name: part.value for name, part in record.parts.items()}


if __name__ == "__main__":
    print(table(measured()))
