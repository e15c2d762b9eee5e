"""What a source names: listing its shards, opening them, finding one member again."""
