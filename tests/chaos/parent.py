"""One run of `curate-corpus` in a process of its own that can be killed: python parent.py PARAMETERS; prints its result.

No scorer can be loaded in it: a parent plans, follows and closes from files alone, on a machine that need not have a GPU.
"""

import json
import sys

from flows.corpus import curate_corpus
from mdmf_core.errors import MdmfError
from tasks.scoring import loading


def no_network(*_: object) -> None:
    raise MdmfError("no network is built where child runs are only followed")


if __name__ == "__main__":
    loading.backbone_scorer = loading.scorer_from_files = no_network
    print(curate_corpus(**json.loads(sys.argv[1])).model_dump_json())
