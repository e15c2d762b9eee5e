"""Scoring again from kept signatures against extraction, side by side on the same images.

Run: python benchmarks/stages/rescore.py DATA
"""

import sys
import time
from pathlib import Path

import numpy as np

from mdmf_core.banks.assembly import assemble, calibrate, in_bank_half
from tasks.banks.real_images import collect, spooled
from tasks.parts.kept_signatures import read_signatures, signature_writer
from tasks.scoring.loading import load_scorer


def main(data: Path) -> None:
    scorer = load_scorer("forensic", "cpu")
    path = ".mdmf/rescore.parquet"
    extract, extraction = scorer.extract, 0.0
    with spooled() as append:
        with signature_writer(path) as writer:

            def kept(crops):  # type: ignore[no-untyped-def]
                nonlocal extraction
                started = time.perf_counter()
                found = extract(crops)
                extraction += time.perf_counter() - started
                keys = [""] * len(found.counts)
                writer.write(keys, keys, found)
                return found

            object.__setattr__(scorer, "extract", kept)
            images, _ = collect(str(data / "real"), scorer, 5000, "folder", None, append)
        print(f"{len(images)} images, extraction {len(images) / extraction:.0f} images/s")
        for domains in ("one", "folder"):
            members = images if domains == "folder" else [i for i in images if i.member.domain == "imagenet_sample"]
            bank = assemble(scorer, [i for i in members if in_bank_half(i)], "b", 1000, "herding")
            calibration = calibrate(scorer, bank, [i for i in members if not in_bank_half(i)])
            rates = []
            for _ in range(3):
                started, done = time.perf_counter(), 0
                for batch in read_signatures(path, 256):
                    shapes = [image.shape for image in images[done : done + len(batch.keys)]]
                    scorer.score(batch.signatures, shapes, bank, calibration)
                    done += len(batch.keys)
                rates.append(done / (time.perf_counter() - started))
            rate = float(np.median(rates))
            print(f"{len(bank.slices)} slices: {rate:.0f} images/s, {rate * extraction / len(images):.0f} times extraction")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
