"""clip-retrieval's own inference over tars, by its documented entry point, with the same CLIP in open_clip's naming."""

from pathlib import Path
from typing import Any

import torch
from clip_retrieval.clip_inference import main as inference
from clip_retrieval.clip_inference import worker
from model import Stamps, arguments
from safetensors.torch import load_file, save_file

MODEL = "ViT-B-16-quickgelu"


def converted(weights: Path, out: Path) -> Path:
    """The image encoder in open_clip's naming; its text encoder, which is not asked for anything, as it is initialised."""
    import open_clip

    theirs = open_clip.create_model(MODEL).state_dict()
    ours = {name: value.float() for name, value in load_file(weights).items()}
    whole = {
        "class_embedding": ours["cls_token"].flatten(), "positional_embedding": ours["pos_embed"][0],
        "conv1.weight": ours["patch_embed.proj.weight"], "proj": ours["head.weight"].T,
    }  # fmt: skip
    renamed = {"norm_pre": "ln_pre", "norm": "ln_post"}
    inside = {"norm1": "ln_1", "norm2": "ln_2", "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj",
              "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    for name, value in ours.items():
        head, _, rest = name.partition(".")
        if head in renamed:
            whole[f"{renamed[head]}.{rest}"] = value
        elif head == "blocks":
            for old, new in inside.items():
                rest = rest.replace(old, new)
            whole[f"transformer.resblocks.{rest}"] = value
    theirs |= {f"visual.{name}": value.contiguous() for name, value in whole.items()}
    path = out / "open_clip.safetensors"
    save_file({name: value.clone() for name, value in theirs.items()}, path)
    return path


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    stamp, model = Stamps(given.out), converted(given.weights, given.out)

    class Stamped(worker.ClipMapper):
        def __call__(self, item: Any) -> Any:
            found = super().__call__(item)
            stamp(len(item["image_tensor"]))
            return found

    worker.ClipMapper = Stamped  # its own stats are sums over batches
    first, last = (sorted(given.shards.glob("*.tar"))[at].stem for at in (0, -1))
    inference.main(
        input_dataset=f"{given.shards}/{{{first}..{last}}}.tar", output_folder=str(given.out / "embeddings"),
        input_format="webdataset", batch_size=given.batch, num_prepro_workers=given.workers, enable_text=False,
        clip_model=f"open_clip:{MODEL}/{model}",
    )  # fmt: skip
    stamp(0)


if __name__ == "__main__":
    main()
