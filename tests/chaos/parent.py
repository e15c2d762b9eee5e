"""One run of `curate-corpus` in a process of its own that can be killed: python parent.py PARAMETERS; prints its result."""

import json
import sys

from flows.corpus import curate_corpus

if __name__ == "__main__":
    print(curate_corpus(**json.loads(sys.argv[1])).model_dump_json())
