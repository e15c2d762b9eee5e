-- What exactly-once landing and its verification need.

ALTER TABLE shards ADD COLUMN generation BIGINT;    -- of the lease it was landed under; a lower one cannot replace it
ALTER TABLE shards ADD COLUMN part_sha256 VARCHAR;  -- of the part's file, as landed; null = from before this column
