"""What the peers share: the model, the transform, and a clock that every peer stamps in the same way."""

import json
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

SIDE = 224
MODEL = "vit_base_patch16_clip_quickgelu_224.openai"


def arguments() -> Namespace:
    """What the harness passes to every peer."""
    parser = ArgumentParser()
    parser.add_argument("--shards", type=Path, required=True, help="folder of tars, or of parquet files with the same images")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True, help="of the model, in each process that runs it")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return given


class Stamps:
    """Appends (images, time) to a file, from whichever process finished a batch."""

    def __init__(self, out: Path) -> None:
        self._path = out / "stamps.jsonl"

    def __call__(self, images: int) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps([images, time.time()]) + "\n")


def clip(weights: Path, threads: int) -> Any:
    """timm's CLIP ViT-B/16: normalised float crops in, one embedding an image out."""
    import timm
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    model = timm.create_model(MODEL, pretrained=False).eval()
    model.load_state_dict({name: value.float() for name, value in load_file(weights).items()}, strict=True)
    return model


def transform() -> Any:
    """The centre crop at native resolution, as a float tensor normalised for the model."""
    from torchvision import transforms

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return transforms.Compose([transforms.CenterCrop(SIDE), transforms.ToTensor(), transforms.Normalize(mean, std)])
