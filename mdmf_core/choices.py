"""Options with a closed list of values, declared once for settings, flows and the command line, which must load nothing."""

from typing import Literal

# Where groups of shards are scored.
EngineName = Literal["threads", "ray", "dask"]
# How a bank's patches are compressed, and by what alike its images are compared.
Compression = Literal["herding", "nystrom", "thinning"]
Condition = Literal["quality", "size", "resized"]
# What a training compares: how a signature is made, and which statistic of it scores an image.
Objective = Literal["none", "mmd-d", "mmd-mp", "bce"]
StatisticName = Literal["mmd2", "cross", "top-k"]
# Which half of GenImage is evaluated.
Part = Literal["train", "val"]
# Which images a keep-list holds, whether it takes in the unsure ones, its files, and whose ids DataComp's list holds.
Which = Literal["kept", "flagged", "unsure", "surely", "discoveries"]
Unsure = Literal["keep", "drop"]
FileFormat = Literal["parquet", "csv", "datacomp"]
Uid = Literal["sidecar", "image_id"]
