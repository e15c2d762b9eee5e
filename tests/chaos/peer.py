"""What the usual loop, webdataset in a torch DataLoader, delivers of the same shards."""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import webdataset


@dataclass
class Delivered:
    """What one pass over the shards delivered."""

    images: int
    ended: str  # "to the end", or the error that ended it


def deliver(shards: list[Path], carry_on: bool) -> Delivered:
    """Counts the decoded images of one pass; with ``carry_on`` under the handler that its users take against errors."""
    handler = webdataset.warn_and_continue if carry_on else webdataset.reraise_exception
    dataset = (
        webdataset.WebDataset([str(path) for path in shards], handler=handler, shardshuffle=False)
        .decode("rgb8", handler=handler)
        .to_tuple("jpg;png;webp;jpeg", handler=handler)
    )
    images = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn"):
                images += 1
    except Exception as error:
        return Delivered(images, f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
    return Delivered(images, "to the end")


if __name__ == "__main__":
    for carry_on in (False, True):
        print(deliver([Path(path) for path in sys.argv[1:]], carry_on))
