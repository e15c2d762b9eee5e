-- Facts. No keys or indexes: loads of ten million rows stay seconds, and uniqueness is checked where rows land.

CREATE TABLE runs (
  run_id UUID NOT NULL,
  flow VARCHAR NOT NULL,
  state VARCHAR NOT NULL,            -- running | completed | failed
  source VARCHAR NOT NULL,
  scorer_id UUID,
  bank_id UUID,
  calibration_id UUID,
  parameters JSON NOT NULL,
  code_version VARCHAR NOT NULL,
  host VARCHAR NOT NULL,
  device VARCHAR NOT NULL,           -- device and compute dtype
  started_at TIMESTAMPTZ NOT NULL,
  finished_at TIMESTAMPTZ,
  message VARCHAR                    -- why it failed
);

-- One row per shard and (scorer, bank, calibration). members = scored + excluded holds in every complete row.
CREATE TABLE shards (
  shard_id UUID NOT NULL,
  url VARCHAR NOT NULL,
  kind VARCHAR NOT NULL,             -- tar | parquet | folder
  digest VARCHAR,                    -- sha256 of its bytes; null until it was read to the end
  size_bytes BIGINT NOT NULL,
  fingerprint VARCHAR NOT NULL,      -- ETag, or size and time of change: tells an unchanged shard without reading it
  state VARCHAR NOT NULL,            -- complete | deferred | failed
  reason VARCHAR,                    -- why deferred or failed
  members BIGINT NOT NULL,
  scored BIGINT NOT NULL,
  excluded BIGINT NOT NULL,
  superseded BOOLEAN NOT NULL,       -- the same URL was read again with other content
  scorer_id UUID NOT NULL,
  bank_id UUID NOT NULL,
  calibration_id UUID NOT NULL,
  run_id UUID NOT NULL,
  seconds DOUBLE NOT NULL,           -- reading to finished part
  committed_at TIMESTAMPTZ NOT NULL
  , CHECK (state <> 'complete' OR members = scored + excluded) -- embedded only
);

CREATE TABLE images (
  image_id UUID NOT NULL,            -- of shard, key and sha256
  shard_id UUID NOT NULL,
  key VARCHAR NOT NULL,              -- as the source gives it
  sha256 VARCHAR NOT NULL,           -- of the encoded file
  format VARCHAR NOT NULL,           -- JPEG | PNG | WEBP
  width INTEGER NOT NULL,            -- pixels, upright
  height INTEGER NOT NULL,
  bytes BIGINT NOT NULL,
  locator BIGINT,                    -- byte offset in a tar, row number in a parquet file
  jpeg_quality INTEGER,
  border_px INTEGER NOT NULL,        -- widest uniform edge, not scored
  resized BOOLEAN,                   -- as the sidecar's original size says; null = not said
  caption VARCHAR,
  url VARCHAR,
  sidecar JSON
);

CREATE TABLE scores (
  image_id UUID NOT NULL,
  shard_id UUID NOT NULL,
  scorer_id UUID NOT NULL,
  bank_id UUID NOT NULL,
  calibration_id UUID NOT NULL,
  run_id UUID NOT NULL,
  score DOUBLE NOT NULL,             -- higher = more likely generated
  mmd2 DOUBLE NOT NULL,
  cross_term DOUBLE NOT NULL,
  self_term DOUBLE NOT NULL,
  top_k DOUBLE NOT NULL,
  top_patch INTEGER NOT NULL,        -- index of the patch farthest from the bank
  patches INTEGER NOT NULL,
  p_value DOUBLE NOT NULL,           -- share of calibration images at least this unlike the bank, never 0
  domain VARCHAR NOT NULL,
  in_support BOOLEAN NOT NULL,       -- size and quality lie in the calibration's range
  scored_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE exclusions (
  shard_id UUID NOT NULL,
  key VARCHAR NOT NULL,
  image_id UUID NOT NULL,
  reason VARCHAR NOT NULL,
  detail VARCHAR NOT NULL,
  scorer_id UUID NOT NULL,
  bank_id UUID NOT NULL,
  calibration_id UUID NOT NULL,
  run_id UUID NOT NULL
);

-- The registry. Digests are whole sha256 values; the UUIDs elsewhere are their first 128 bits.
CREATE TABLE scorers (
  scorer_id UUID NOT NULL, name VARCHAR NOT NULL, digest VARCHAR NOT NULL, card JSON NOT NULL, registered_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE banks (
  bank_id UUID NOT NULL, scorer_id UUID NOT NULL, name VARCHAR NOT NULL, digest VARCHAR NOT NULL, points INTEGER NOT NULL,
  patches BIGINT NOT NULL, images INTEGER NOT NULL, sigma DOUBLE NOT NULL, coreset_error DOUBLE NOT NULL,
  registered_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE bank_members (
  bank_id UUID NOT NULL, source VARCHAR NOT NULL, key VARCHAR NOT NULL, sha256 VARCHAR NOT NULL, domain VARCHAR NOT NULL,
  licence VARCHAR
);
CREATE TABLE calibrations (
  calibration_id UUID NOT NULL, scorer_id UUID NOT NULL, bank_id UUID NOT NULL, domain VARCHAR NOT NULL, digest VARCHAR NOT NULL,
  images INTEGER NOT NULL, smallest_budget DOUBLE NOT NULL, registered_at TIMESTAMPTZ NOT NULL
);
-- History of promotions: the newest row of an alias is in force.
CREATE TABLE bank_aliases (
  alias VARCHAR NOT NULL, scorer_id UUID NOT NULL, bank_id UUID NOT NULL, calibration_id UUID NOT NULL, promoted_at TIMESTAMPTZ NOT NULL
);
