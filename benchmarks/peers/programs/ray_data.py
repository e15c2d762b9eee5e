"""Ray Data: read_webdataset, a map of the transform, map_batches of the model on actors, embeddings as parquet."""

import os

os.environ["RAY_raylet_start_wait_time_s"] = "180"  # noqa: SIM112 - Ray's own name; its limit is too short for a busy machine

from pathlib import Path
from typing import Any

import numpy as np
import ray
from model import Stamps, arguments, clip, transform


class Embed:
    """The model of one actor."""

    def __init__(self, weights: Path, threads: int, out: Path) -> None:
        self._model, self._stamp = clip(weights, threads), Stamps(out)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            found = self._model(torch.from_numpy(np.stack(batch["image"]))).numpy()
        self._stamp(len(found))
        return {"key": batch["key"], "embedding": list(found)}


class Prepare:
    """The transform of a decoded row."""

    def __init__(self) -> None:
        self._transform = transform()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from PIL import Image

        return {"key": row["__key__"], "image": self._transform(Image.fromarray(row["jpg"])).numpy()}


def main() -> None:
    given = arguments()
    ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    prepare = Prepare()
    dataset = ray.data.read_webdataset([str(path) for path in sorted(given.shards.glob("*.tar"))])
    (
        dataset.map(lambda row: prepare(row))
        .map_batches(
            Embed, fn_constructor_args=(given.weights, given.threads, given.out), batch_size=given.batch,
            compute=ray.data.ActorPoolStrategy(size=given.workers), num_cpus=0.5,
        )
        .write_parquet(str(given.out / "embeddings"))
    )  # fmt: skip
    Stamps(given.out)(0)
    ray.shutdown()


if __name__ == "__main__":
    main()
