"""The whole shard path, from tar to part, over the backbone alone on crops that are decoded already: CLIP ViT-B/16."""

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from benchmarks.harness.corpora import as_laion, described, photographs, write_shards
from benchmarks.harness.frame import Better, Record, Setting, interleaved, ratio_record, timed
from mdmf_core.images.decode import ImageLimits, decode
from mdmf_core.scoring.scorer import Scorer
from tasks.banks.build import BuildSettings, build
from tasks.collections.listing import list_shards
from tasks.scoring.cpu_threads import model_threads
from tasks.scoring.loading import load_scorer, load_setup
from tasks.scoring.score_shard import score_shard
from tasks.scoring.scoring_setup import ScoringSetup

MODEL = "vit_base_patch16_clip_quickgelu_224.openai"
IMAGES, REPEATS, TARGET = 64, 2, 0.90
BANK_IMAGES, BANK_POINTS = 24, 1000
RUN = "00000000-0000-0000-0000-000000000001"


def clip_bank(setting: Setting) -> str:
    """The directory of a bank of the usual size for CLIP's raw patch tokens."""
    setting.say(f"building a bank from {BANK_IMAGES} images")
    real = setting.work / "real"
    real.mkdir()
    for number, data in enumerate(as_laion(photographs(setting.data, BANK_IMAGES))):
        (real / f"{number}.jpg").write_bytes(data)
    address = f"timm:{MODEL}?weights={setting.weights}"
    settings = BuildSettings(
        source=str(real), name="bench", store=str(setting.work / "banks"), scorer=address, points=BANK_POINTS, max_error=0.0,
        compression="herding", max_images=BANK_IMAGES, domains="photo", match=(), expel=None, device="cpu", storage_block=None,
    )  # fmt: skip
    return build(settings, load_scorer(address, "cpu")).directory


def clip_kit(setting: Setting) -> ScoringSetup:
    """CLIP ViT-B/16 with raw patch tokens, with the defaults of a run."""
    return load_setup(f"timm:{MODEL}?weights={setting.weights}", clip_bank(setting), "cpu", 0, 0, None)


def scored_rate(shard: Path, setup: ScoringSetup, folder: Path) -> float:
    """Images per second of the whole path, by a run that finds nothing done yet.

    Raises:
        ValueError: an image got no score, so that the rate would be of less work.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (listed,) = list_shards(str(shard), 1000)
    started = time.perf_counter()
    outcome = score_shard(listed, setup, str(folder), RUN, None, lambda done: None)
    seconds = time.perf_counter() - started
    if outcome.state != "complete" or outcome.excluded:
        raise ValueError(f"{shard}: expected every image scored, got {outcome}")
    return outcome.scored / seconds


def crops_of(images: list[bytes], scorer: Scorer) -> list[UInt8[np.ndarray, "n 3 size size"]]:
    """What the decoder would hand to the backbone."""
    return [scorer.crops.cut(decode(data, ImageLimits()).pixels) for data in images]


def backbone_rate(crops: list[UInt8[np.ndarray, "n 3 size size"]], setup: ScoringSetup, side_by_side: bool) -> float:
    """Images per second of the backbone alone, in batches of the run's size.

    Args:
        side_by_side: with one thread for each batch, as a run does it; or one batch after the other with all threads of torch.
    """
    size = setup.batch_crops
    batches = [torch.from_numpy(np.concatenate(crops[at : at + size])) for at in range(0, len(crops), size)]
    run = torch.inference_mode()(setup.scorer.backbone.forward)
    over: Callable[..., Iterable[object]] = model_threads(setup.backbones).map if side_by_side else map
    return len(crops) / timed(lambda: list(over(run, batches)))


def records(setting: Setting) -> list[Record]:
    setup, found = clip_kit(setting), []
    originals = photographs(setting.data, IMAGES)
    kinds: dict[str, list[bytes]] = {"256 px, as LAION": list(as_laion(originals)), "as found on the web": originals}
    for number, (kind, images) in enumerate(kinds.items()):
        (shard,) = write_shards(setting.work / f"shards{number}", images)
        crops, parts = crops_of(images, setup.scorer), setting.work / "parts"
        sides: dict[str, Callable[[], float]] = {
            "whole path": lambda shard=shard, parts=parts: scored_rate(shard, setup, parts),
            "backbone alone": lambda crops=crops: backbone_rate(crops, setup, side_by_side=True),
            "backbone alone, torch's own threads": lambda crops=crops: backbone_rate(crops, setup, side_by_side=False),
        }
        rates = interleaved(sides, REPEATS, setting.say, warm=False)  # building the bank has warmed it
        found.append(
            ratio_record(
                f"whole path over backbone alone, CLIP ViT-B/16, images {kind}", rates, "whole path", "backbone alone",
                Better.HIGHER, "images/s", TARGET,
                f"{described(images)}, {setup.backbones} batches of {setup.batch_crops} side by side",
            )
        )  # fmt: skip
    return found
