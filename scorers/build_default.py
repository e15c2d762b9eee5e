"""Makes the bundled default scorer with its bank and calibration: `make default-scorer DATA=DIR`.

DIR holds manifest.csv (label, set, file), as ../shared/data does. A fold holds whole generators and whole real sources; sets
that share pictures, prompts or subjects lie in one fold, so that no model has seen the subject of either class that it meets.
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
from mdmf_core.training.matched import MatchedFigure, matched_markdown

BEGIN, END = "<!-- figures of scorers/default: made by make default-scorer -->", "<!-- end of figures -->"
PAGE = Path(__file__).parent.parent / "docs" / "detection.md"
BACKBONE = "clip-b16"

# Domain of every set, by fold. A source that is alone of its kind would take the kind with it: nothing of it would be left in
# training, bank or calibration: such sources lie in two folds, half of their images each (HALVED).
FOLDS = (
    {
        "stylegan_faces_512": "face", "stylegan2_ffhq_kenton": "face", "cyclegan_h2z_256": "photo",
        "faces_ciplab 1": "face", "horses_cyclegan_pair": "photo", "wesnoth_art 1": "art",
    },
    {
        "imagenet_sample": "photo", "sr_span_kendata": "photo", "sr_realesrgan_x4plus": "photo", "sr_esrgan_medium_x4": "photo",
        "sr_bsrgan": "photo", "sr_esrgan": "photo", "sr_realsr": "photo", "clothing_phone 1": "product",
    },
    {
        "openimages_tt": "photo", "ade20k_tt": "photo", "dalle_mini": "photo", "glid3xl": "photo",
        "latent_diffusion_laion": "photo", "disco_diffusion": "art", "sd1_dreamstudio": "photo", "ldm_has97_256": "photo",
    },
    {
        "bsds500": "photo", "sd1_extile_512": "art", "sd1_bento_384": "art", "sd3_faker_portraits": "face",
        "pixart_alpha": "art", "hunyuandit": "art", "faces_ciplab 2": "face", "wesnoth_art 2": "art",
    },
    {
        "landscapes_flickr": "photo", "houses_indoor": "interior", "mj_profiles_photo": "photo", "mj_profiles_art": "art",
        "flux_schnell_jobs": "photo", "flux_xlabs": "photo", "kolors": "photo", "sdxl_fooocus": "art",
        "clothing_phone 2": "product",
    },
)  # fmt: skip
PLACES = {name: (number, domain) for number, fold in enumerate(FOLDS) for name, domain in fold.items()}
HALVED = {name.removesuffix(" 1") for name in PLACES if name.endswith(" 1")}
PAIRS = {
    "faces": {"faces_ciplab", "stylegan_faces_512", "stylegan2_ffhq_kenton", "sd3_faker_portraits"},
    "horses": {"horses_cyclegan_pair", "cyclegan_h2z_256"},
    "paintings": {"wesnoth_art", "sd1_extile_512", "sd1_bento_384", "pixart_alpha", "hunyuandit"},
    "enlarged": {"sr_span_kendata", "sr_realesrgan_x4plus", "sr_esrgan_medium_x4"},  # and their originals in imagenet_sample
}


def pair_of(name: str, stem: str, enlarged: set[str]) -> str:
    """The content-matched pair of an image, empty for none. Enlarged images show pictures of imagenet_sample."""
    if name == "imagenet_sample" and stem in enlarged:
        return "enlarged"
    return next((pair for pair, sets in PAIRS.items() if name in sets), "")


def figures_block(card: dict) -> str:  # type: ignore[type-arg]
    """The measured part of docs/detection.md, from the scorer's card."""
    held_out = card["training"]["held_out"]
    tables = {name: [Figure(**row) for row in rows] for name, rows in held_out["tables"].items()}
    lines = ["", "### Per generator", "", markdown(tables["mdmf"])]
    lines += [
        "### The same crops by other means",
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
    lines += ["", "### Content-matched: generated / real images of the same subjects", ""]
    lines += [matched_markdown([MatchedFigure(**row) for row in held_out["content_matched"]])]
    lines += ["### Real images above the 5 % line, by source", "", "| source | flagged |", "|---|---:|"]
    lines += [f"| {source} | {share:.3f} |" for source, share in held_out["real_flagged_at_5_percent"].items()]
    weak = [f.name for f in tables["mdmf"] if f.auroc < 0.65 and f.name in per_generator(tables["mdmf"])]
    lines += ["", f"Below 0.65, so practically not detected: {', '.join(weak) or 'none'}.", ""]
    return "\n".join(lines)


def with_block(page: str, block: str) -> str:
    """The page with the measured part replaced."""
    return page[: page.index(BEGIN) + len(BEGIN)] + "\n" + block + "\n" + page[page.index(END) :]


def write_manifest(data: Path, path: Path) -> None:
    """The data's manifest with folds, domains and pairs."""
    with (data / "manifest.csv").open() as source:
        rows = list(csv.DictReader(source))
    enlarged = {Path(row["file"]).stem for row in rows if row["set"] in PAIRS["enlarged"]}
    with path.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "group", "url", "fold", "domain", "pair"])
        for row in rows:
            pair = pair_of(row["set"], Path(row["file"]).stem, enlarged)
            group = f"{row['set']} {1 + int(row['sha256'][0], 16) % 2}" if row["set"] in HALVED else row["set"]
            writer.writerow([row["label"], group, (data / row["file"]).resolve(), *PLACES[group], pair])


def main(data: Path, target: Path) -> None:
    work = Path(".mdmf/default-scorer")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_manifest(data, work / "manifest.csv")
    trained = train_pfs(
        str(work / "manifest.csv"),
        str(work / "default"),
        backbone=BACKBONE,
        folds=len(FOLDS),
        cache=".mdmf/tokens",
        device="cpu",
    )
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(work / "default", target)
    card = json.loads((target / "scorer.json").read_text())
    PAGE.write_text(with_block(PAGE.read_text(), figures_block(card)))
    print(trained.table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
