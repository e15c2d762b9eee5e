"""Measurements against stated targets; none of it runs as a timed test. `make bench` runs them, see `harness/frame.py`.

* stages: one stage alone: decoding, statistics, coresets, rescoring.
* storage: reading, landing, lakes, questions to the warehouse, keep-lists.
* end_to_end: the whole path from shard to row; growth, memory, Prefect's overhead, what a GPU would do on paper.
* detection: what the scores are worth: realised false-positive rates, swapped subjects.
* peers: other tools on the same shards; the programs that run in environments of their own are in peers/programs.
* scale: a corpus of LAION's size, simulated and counted.
* harness: what all of them use: records and comparison, machine, shards, a stub in the backbone's place.
* results, profiles: what was measured, committed.
"""
