"""Daft: parquet with the same images (it has no reader of tars), its own JPEG decoder, the model as a UDF; parquet out."""

from pathlib import Path

import daft
import numpy as np
from daft import DataType, col
from model import Stamps, arguments, clip, transform


def main() -> None:
    given = arguments()
    daft.set_runner_native()

    @daft.udf(return_dtype=DataType.list(DataType.float32()), batch_size=given.batch, concurrency=given.workers)
    class Embed:
        def __init__(self, weights: Path = given.weights, threads: int = given.threads, out: Path = given.out) -> None:
            self._model, self._stamp, self._transform = clip(weights, threads), Stamps(out), transform()

        def __call__(self, images: daft.Series) -> list[list[float]]:
            import torch
            from PIL import Image

            with torch.inference_mode():
                batch = torch.stack([self._transform(Image.fromarray(np.asarray(image))) for image in images.to_pylist()])
                found = self._model(batch).numpy()
            self._stamp(len(found))
            return list(found)

    frame = daft.read_parquet(str(given.shards / "*.parquet"))
    frame = frame.with_column("image", daft.functions.decode_image(col("jpg"), mode="RGB"))
    frame.select("key", Embed(col("image")).alias("embedding")).write_parquet(str(given.out / "embeddings"))
    Stamps(given.out)(0)


if __name__ == "__main__":
    main()
