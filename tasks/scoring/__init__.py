"""From images to scores: decoder processes, stage threads, one shard, retried members, rescoring, speed."""
