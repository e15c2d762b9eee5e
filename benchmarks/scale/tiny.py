"""A corpus and a scorer that cost next to nothing, so that what is left is the pipeline's own work per shard.

The scorer is timm's smallest ViT (365,096 seeded weights) on 32 px crops; a shard is a tar of JPEGs of 40 x 40 px, two unless
more are asked for.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tasks.banks.build import BuildSettings, build
from tasks.scoring.loading import load_scorer


def photograph(seed: int) -> bytes:
    """A JPEG of 40 x 40 px of smooth structure with grain."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((40, 40), Image.Resampling.BICUBIC)
    pixels = (np.asarray(coarse) + random.normal(0, 6, (40, 40, 3))).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def scorer_and_bank(folder: Path) -> tuple[str, str]:
    """The address of the scorer, and a bank of 80 photographs with its calibration."""
    torch.manual_seed(0)
    weights = folder / "smallest.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), weights)
    address = f"timm:test_vit?weights={weights}&size=32"
    reals = folder / "real"
    reals.mkdir()
    for seed in range(80):
        (reals / f"{seed}.jpg").write_bytes(photograph(seed))
    settings = BuildSettings(
        source=str(reals), name="tiny", store=str(folder / "banks"), scorer=address, points=20, max_error=1.0,
        compression="herding", max_images=80, domains="one", match=(), expel=None, device="cpu", storage_block=None,
    )  # fmt: skip
    return address, build(settings, load_scorer(address, "cpu")).directory


def shards(folder: Path, count: int, images: int = 2) -> str:
    """So many shards of ``images`` each, in folders of a thousand; their pattern."""
    pictures = [photograph(seed) for seed in range(1000, 1100)]
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number % 1000:03d}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for index in range(images):
                data = pictures[(number * images + index) % len(pictures)]
                entry = tarfile.TarInfo(f"{number * images + index:09d}.jpg")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return f"{folder}/*/*.tar"
