"""A process that takes leases, says which it got, and holds them until it is killed or its input ends."""

import sys

from tasks.parts.leases import Lease, acquire, owner

if __name__ == "__main__":
    folder, run, heartbeat, *shards = sys.argv[1:]
    with owner(folder, run, float(heartbeat)) as name:
        print(*[shard for shard in shards if isinstance(acquire(folder, shard, name, 0), Lease)], flush=True)
        sys.stdin.read()
