"""Collections: what a source URL names, and how each kind of shard gives its members."""
