-- How a lake lays out its files. Landed files hold one scorer and bank each, and merged ones must too, so that a view reads its
-- own; the bucket finds a shard's rows among them. An embedded warehouse has no files to lay out.

-- lake: ALTER TABLE scores SET PARTITIONED BY (scorer_id, bank_id, bucket(16, shard_id));
-- lake: ALTER TABLE exclusions SET PARTITIONED BY (scorer_id, bank_id, bucket(16, shard_id));
-- lake: ALTER TABLE images SET PARTITIONED BY (bucket(16, shard_id));
-- lake: CALL warehouse.set_option('target_file_size', '256MB');
