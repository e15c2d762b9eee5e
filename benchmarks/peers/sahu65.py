"""A published detector on the same images: sahu65, a linear probe on CLIP ViT-B/16 with a head of its own.

Its pins (pillow < 11.2, pydantic < 2.11) exclude those of this project, so it runs in an environment of its own. Its int8
kernels are right only on processors with VNNI.

    python -m venv sahu && sahu/bin/pip install sahu65==1.1.0
    sahu/bin/python benchmarks/peers/sahu65.py ../shared/data
"""

import csv
import io
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import sahu65
from PIL import Image
from scipy.stats import mannwhitneyu


def jpeg_90(path: Path) -> bytes:
    """As `evaluate` re-encodes both classes for its headline."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "JPEG", quality=90, subsampling=2)
    return buffer.getvalue()


def auroc(generated: list[float], real: list[float]) -> float:
    return float(mannwhitneyu(generated, real).statistic) / (len(generated) * len(real))


def main(data: Path) -> None:
    if "vnni" not in Path("/proc/cpuinfo").read_text():
        sys.exit("this processor has no VNNI: the int8 kernels of sahu65 would give wrong scores")
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    with (data / "manifest.csv").open() as file:
        for row in csv.DictReader(file):
            found = sahu65.detect_bytes(jpeg_90(data / row["file"])).detector_probability
            scores[row["label"], row["set"]].append(found)
    real = [score for (label, _), found in scores.items() if label == "real" for score in found]
    line = float(np.quantile(real, 0.95))
    made = {name: found for (label, name), found in sorted(scores.items()) if label != "real"}
    for name, found in made.items():
        print(f"{name}: AUROC {auroc(found, real):.3f}, {len(found)} against {len(real)}")
    pooled = [score for found in made.values() for score in found]
    mean = float(np.mean([auroc(found, real) for found in made.values()]))
    share = float(np.mean(np.array(pooled) > line))
    print(f"mean {mean:.3f}, pooled {auroc(pooled, real):.3f}, TPR at 5 % {share:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
