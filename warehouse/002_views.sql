-- What curators query. Every view reads one scorer, bank and calibration: the promoted one. None mixes two.

CREATE VIEW promoted AS
  SELECT scorer_id, bank_id, calibration_id FROM bank_aliases
  WHERE alias = 'production' ORDER BY promoted_at DESC LIMIT 1;

CREATE VIEW scored AS
  SELECT i.shard_id, i.key, i.image_id, i.url, i.caption, s.score, s.p_value, s.domain, s.in_support,
         s.mmd2, s.cross_term, s.self_term, s.top_k, s.top_patch, s.patches,
         i.sha256, i.format, i.width, i.height, i.bytes, i.jpeg_quality, i.border_px, i.resized, i.locator, i.sidecar,
         sh.url AS shard_url, s.run_id, s.scored_at
  FROM scores s
  JOIN promoted p USING (scorer_id, bank_id, calibration_id)
  JOIN shards sh USING (shard_id, scorer_id, bank_id, calibration_id)
  JOIN images i USING (shard_id, image_id)
  WHERE sh.state = 'complete' AND NOT sh.superseded;

CREATE VIEW excluded AS
  SELECT e.shard_id, e.key, e.image_id, e.reason, e.detail, sh.url AS shard_url, e.run_id
  FROM exclusions e
  JOIN promoted p USING (scorer_id, bank_id, calibration_id)
  JOIN shards sh USING (shard_id, scorer_id, bank_id, calibration_id)
  WHERE sh.state = 'complete' AND NOT sh.superseded;

CREATE VIEW accounting AS
  SELECT sh.url, sh.state, sh.reason, sh.members, sh.scored, sh.excluded, sh.size_bytes, sh.seconds, sh.committed_at, sh.shard_id
  FROM shards sh JOIN promoted p USING (scorer_id, bank_id, calibration_id)
  WHERE NOT sh.superseded ORDER BY sh.url;

-- The budget itself, or an error where the calibration has too few real images to keep it.
CREATE MACRO reachable(fpr) AS (
  SELECT CASE
    WHEN fpr >= 1 OR fpr <= 0 THEN error(printf('a false-positive budget lies between 0 and 1, got %s', fpr::VARCHAR))
    WHEN fpr < any_value(c.smallest_budget) THEN error(printf(
      'budget %s cannot be kept: this calibration has %d real images and reaches down to %.5f; it would take %d',
      fpr::VARCHAR, any_value(c.images), any_value(c.smallest_budget), ceil(1 / fpr)::BIGINT - 1))
    ELSE fpr END
  FROM calibrations c JOIN promoted USING (calibration_id)
);

-- Every scored image is flagged, kept or unsure.
CREATE MACRO flagged(fpr) AS TABLE
  SELECT * FROM scored WHERE in_support AND p_value <= reachable(fpr) ORDER BY score DESC;

CREATE MACRO kept(fpr) AS TABLE
  SELECT * FROM scored WHERE in_support AND p_value > reachable(fpr);

CREATE MACRO unsure() AS TABLE
  SELECT * FROM scored WHERE NOT in_support;

-- Share of generated images by Storey's estimate from the p-values above one half, which generated images seldom reach
-- (Storey 2002, A direct approach to false discovery rates). Too low where generated images pass as real.
CREATE MACRO prevalence() AS TABLE
  SELECT domain, count(*) AS images,
         greatest(0.0, 1 - count(*) FILTER (p_value > 0.5) / (0.5 * count(*))) AS generated_share
  FROM scored WHERE in_support GROUP BY domain;

-- Images scored with both banks, largest change first. Takes ids from `banks`.
CREATE MACRO version_diff(bank_a, bank_b) AS TABLE
  SELECT i.shard_id, i.key, i.image_id, i.url, a.score AS score_a, b.score AS score_b, a.p_value AS p_value_a, b.p_value AS p_value_b
  FROM scores a JOIN scores b USING (image_id, shard_id, scorer_id) JOIN images i USING (image_id, shard_id)
  WHERE a.bank_id = bank_a::UUID AND b.bank_id = bank_b::UUID
  ORDER BY abs(ln(a.p_value) - ln(b.p_value)) DESC;
