"""The usual loop: webdataset, torch's DataLoader, timm; embeddings as .npy."""

import numpy as np
import torch
import webdataset as wds
from model import Stamps, arguments, clip, transform


def main() -> None:
    given = arguments()
    stamp, model = Stamps(given.out), clip(given.weights, given.threads)
    urls = [str(path) for path in sorted(given.shards.glob("*.tar"))]
    dataset = wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg")
    dataset = dataset.map_tuple(lambda key: key, transform()).batched(given.batch)
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=given.workers)
    found = []
    with torch.inference_mode():
        for _, images in loader:
            found.append(model(images).numpy())
            stamp(len(images))
    np.save(given.out / "embeddings.npy", np.concatenate(found))
    stamp(0)


if __name__ == "__main__":
    main()
