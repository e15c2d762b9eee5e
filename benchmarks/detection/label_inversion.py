"""Does a detector see traces or subjects? The subjects of the classes are swapped between training and test.

Training: real photographs of things and animals, generated faces and paintings. Test: real faces and paintings, generated
photographs of things and animals. A detector that has learned subjects falls below .5.

Run: python benchmarks/detection/label_inversion.py DATA [BACKBONE]
"""

import csv
import json
import shutil
import sys
from pathlib import Path

from flows.train import train_pfs

TEST = {
    "faces_ciplab",
    "wesnoth_art",
    "cyclegan_h2z_256",
    "ldm_has97_256",
    "sr_span_kendata",
    "sr_realesrgan_x4plus",
    "sr_esrgan_medium_x4",
}
FOLDS = {  # the two folds that are trained on when TEST (fold 0) is reported
    "imagenet_sample": 1, "horses_cyclegan_pair": 1, "stylegan_faces_512": 1, "sd1_extile_512": 1,
    "bsds500": 2, "clothing_phone": 2, "sd3_faker_portraits": 2, "sd1_bento_384": 2, "sdxl_fooocus": 2,
}  # fmt: skip


def main(data: Path, backbone: str) -> None:
    work = Path(".mdmf/label-inversion")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with (data / "manifest.csv").open() as source, (work / "manifest.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "group", "url", "fold", "domain"])
        for row in csv.DictReader(source):
            fold = 0 if row["set"] in TEST else FOLDS.get(row["set"])
            if fold is not None:
                where = (data / row["file"]).resolve()
                writer.writerow([row["label"], row["set"], where, fold, "trained" if fold else "swapped"])
    train_pfs(str(work / "manifest.csv"), str(work / "scorer"), backbone, views=1)
    tables = json.loads((work / "scorer" / "scorer.json").read_text())["training"]["held_out"]["tables"]
    for name, figures in tables.items():
        row = next(figure for figure in figures if figure["name"] == "within domain swapped")
        print(
            f"{name}: AUROC {row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}], {row['generated']} against {row['real']}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "clip-b16")
