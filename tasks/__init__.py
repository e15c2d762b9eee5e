"""One adapter per effect: storage, decoding, scoring, landing, reporting. Small records in and out, no arithmetic."""

import os

# Read once, when torch is loaded: threads that wait for each other sleep. By default they spin, which takes the cores from
# decoders, from the other stages and from other processes that score on the same machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
