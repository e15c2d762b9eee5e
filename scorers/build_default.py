"""Makes the bundled default scorer with its bank and calibration: `make default-scorer DATA=DIR`.

DIR holds manifest.csv (label, set, file), as ../shared/data does. Folds put like with like: a generator is held out together
with the real images that show the same subjects, so that no model has seen the subject of either class that it is measured on.
"""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

import numpy as np

from flows.train import train_pfs
from mdmf_core.training.evaluation import Figure, markdown, per_generator

BEGIN, END = "<!-- figures of scorers/default: made by make default-scorer -->", "<!-- end of figures -->"
PAGE = Path(__file__).parent.parent / "docs" / "detection.md"

GROUPS = {  # set: (fold, domain)
    "faces_ciplab": (0, "face"),
    "stylegan_faces_512": (0, "face"),
    "sd3_faker_portraits": (0, "face"),
    "imagenet_sample": (1, "photo"),
    "sr_span_kendata": (1, "photo"),
    "sr_realesrgan_x4plus": (1, "photo"),
    "sr_esrgan_medium_x4": (1, "photo"),
    "bsds500": (2, "photo"),
    "ldm_has97_256": (2, "photo"),
    "clothing_phone": (3, "product"),
    "sdxl_fooocus": (3, "art"),
    "horses_cyclegan_pair": (4, "horse or zebra"),
    "cyclegan_h2z_256": (4, "horse or zebra"),
    "wesnoth_art": (5, "art"),
    "sd1_extile_512": (5, "art"),
    "sd1_bento_384": (5, "art"),
}


def figures_block(card: dict) -> str:  # type: ignore[type-arg]
    """The measured part of docs/detection.md, from the scorer's card."""
    held_out = card["training"]["held_out"]
    tables = {name: [Figure(**row) for row in rows] for name, rows in held_out["tables"].items()}
    lines = ["", "### Per generator, both classes at JPEG 90", "", markdown(tables["mdmf, jpeg-90"])]
    lines += [
        "### The same images by other means",
        "",
        "| | mean over generators | pooled | TPR at 5 % |",
        "|---|---:|---:|---:|",
    ]
    for name, figures in tables.items():
        pooled = next(figure for figure in figures if figure.name == "all generators")
        mean = np.mean(list(per_generator(figures).values()))
        lines.append(
            f"| {name} | {mean:.3f} | {pooled.auroc:.3f} [{pooled.low:.3f}, {pooled.high:.3f}] | {pooled.tpr_at_5:.3f} |"
        )
    lines += ["", "### Content-matched: generated against real images of one domain", ""]
    domains = [figure.name for figure in tables["mdmf, jpeg-90"] if figure.name.startswith("within domain")]
    lines += [
        "| | " + " | ".join(name.removeprefix("within domain ") for name in domains) + " |",
        "|---|" + "---:|" * len(domains),
    ]
    for name, figures in tables.items():
        found = {figure.name: figure.auroc for figure in figures}
        lines.append(f"| {name} | " + " | ".join(f"{found[domain]:.3f}" for domain in domains) + " |")
    lines += [
        "",
        "### Real images above their model's 5 % line, by source it never saw",
        "",
        "| source | flagged |",
        "|---|---:|",
    ]
    lines += [f"| {source} | {share:.3f} |" for source, share in held_out["real_flagged_at_5_percent"].items()]
    weak = [f.name for f in tables["mdmf, jpeg-90"] if f.auroc < 0.65 and f.name in per_generator(tables["mdmf, jpeg-90"])]
    lines += ["", f"Below 0.65, so practically not detected: {', '.join(weak) or 'none'}.", ""]
    return "\n".join(lines)


def with_block(page: str, block: str) -> str:
    """The page with the measured part replaced."""
    return page[: page.index(BEGIN) + len(BEGIN)] + "\n" + block + "\n" + page[page.index(END) :]


def main(data: Path, target: Path) -> None:
    work = Path(".mdmf/default-scorer")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    manifest = work / "manifest.csv"
    with (data / "manifest.csv").open() as source, manifest.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "group", "url", "fold", "domain"])
        for row in csv.DictReader(source):
            writer.writerow([row["label"], row["set"], (data / row["file"]).resolve(), *GROUPS[row["set"]]])
    trained = train_pfs(
        str(manifest), str(work / "default"), folds=6, top_k=16, regenerator_steps=400, cache=".mdmf/tokens", device="cpu"
    )
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(work / "default", target)
    card = json.loads((target / "scorer.json").read_text())
    PAGE.write_text(with_block(PAGE.read_text(), figures_block(card)))
    print(trained.table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
