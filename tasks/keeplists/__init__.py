"""`mdmf export` and `mdmf reshard`: which images to train on, and new shards that hold only those."""
