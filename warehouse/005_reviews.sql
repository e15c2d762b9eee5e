-- Verdicts of people, which count before the score; counting without touching the images; questions asked of every corpus.

CREATE TABLE reviews (
  image_id UUID NOT NULL,
  sha256 VARCHAR NOT NULL,
  shard_id UUID NOT NULL,
  key VARCHAR NOT NULL,
  verdict VARCHAR NOT NULL
  CHECK (verdict IN ('generated', 'real', 'unsure')) -- embedded only
  ,
  reviewer VARCHAR NOT NULL,
  reason VARCHAR,
  reviewed_at TIMESTAMPTZ NOT NULL,
  imported_at TIMESTAMPTZ NOT NULL,
  file_sha256 VARCHAR NOT NULL
);

CREATE VIEW reviewed AS
  SELECT * FROM reviews
  QUALIFY row_number() OVER (PARTITION BY sha256 ORDER BY reviewed_at DESC, imported_at DESC) = 1;

-- The verdict goes with the bytes: to every row of an image, in whatever shard and under whatever bank it was scored.
CREATE VIEW verdicts AS
  SELECT i.image_id, r.verdict FROM images i JOIN reviewed r USING (sha256);

-- Joining ten million images takes ten times as long as counting their scores, so what counts does without that join.
ALTER TABLE scores ADD COLUMN host VARCHAR;
UPDATE scores SET host = split_part(i.url, '/', 3) FROM images i WHERE scores.image_id = i.image_id AND contains(i.url, '://');

CREATE VIEW judged AS
  SELECT s.image_id, s.shard_id, sh.url AS shard_url, s.host, s.score, s.p_value, s.domain, s.in_support,
         s.mmd2, s.cross_term, s.self_term, s.top_k, s.top_patch, s.patches, s.run_id, s.scored_at
  FROM scores s
  JOIN promoted p USING (scorer_id, bank_id, calibration_id)
  JOIN shards sh USING (shard_id, scorer_id, bank_id, calibration_id)
  WHERE sh.state = 'complete' AND NOT sh.superseded;

CREATE OR REPLACE VIEW scored AS
  SELECT j.shard_id, i.key, j.image_id, i.url, i.caption, j.score, j.p_value, j.domain, j.in_support,
         j.mmd2, j.cross_term, j.self_term, j.top_k, j.top_patch, j.patches,
         i.sha256, i.format, i.width, i.height, i.bytes, i.jpeg_quality, i.border_px, i.resized, i.locator, i.sidecar,
         j.shard_url, j.run_id, j.scored_at
  FROM judged j JOIN images i USING (image_id);

-- The rule, on scores alone: every scored image is flagged, kept or unsure, by its score and then by who looked at it.
CREATE MACRO decided(fpr) AS TABLE
  SELECT *, CASE WHEN reviewed IS NULL THEN 'score' ELSE 'review' END AS decided_by,
         CASE reviewed WHEN 'generated' THEN 'flagged' WHEN 'real' THEN 'kept' WHEN 'unsure' THEN 'unsure' ELSE by_score END AS decision
  FROM (
    SELECT j.*, CASE
      WHEN NOT j.in_support OR c.asked < c.smallest_budget THEN 'unsure'
      WHEN j.p_value <= c.asked THEN 'flagged' ELSE 'kept' END AS by_score, v.verdict AS reviewed
    FROM judged j JOIN (SELECT domain, smallest_budget, reachable(fpr) AS asked FROM slices) c USING (domain)
    LEFT JOIN verdicts v USING (image_id)
  );

CREATE OR REPLACE MACRO decisions(fpr) AS TABLE
  SELECT d.shard_id, i.key, d.image_id, i.url, i.caption, d.score, d.p_value, d.domain, d.in_support,
         d.mmd2, d.cross_term, d.self_term, d.top_k, d.top_patch, d.patches,
         i.sha256, i.format, i.width, i.height, i.bytes, i.jpeg_quality, i.border_px, i.resized, i.locator, i.sidecar,
         d.shard_url, d.run_id, d.scored_at, d.by_score, d.reviewed, d.decided_by, d.decision
  FROM decided(fpr) d JOIN images i USING (image_id);

-- As before, on scores alone.
CREATE OR REPLACE MACRO discoveries(rate) AS TABLE
  WITH ranked AS (
    SELECT p_value, sum(count(*)) OVER (ORDER BY p_value) AS at_most, sum(count(*)) OVER () AS tests
    FROM judged WHERE in_support GROUP BY p_value
  ), line AS (SELECT coalesce(max(p_value), 0) AS p FROM ranked WHERE p_value <= rate * at_most / tests)
  SELECT s.* FROM scored s, line WHERE s.in_support AND s.p_value <= line.p ORDER BY score DESC;

CREATE OR REPLACE MACRO prevalence(of_domain := NULL) AS TABLE -- embedded only
-- lake: CREATE OR REPLACE MACRO prevalence(of_domain := '') AS TABLE
  WITH counted AS (
    SELECT s.domain, count(*) AS images, greatest(count(*) FILTER (p_value > 0.5), 1) AS above,
           any_value(c.images) AS n, (1 + any_value(c.images) - floor((any_value(c.images) + 1) / 2)) / (any_value(c.images) + 1) AS null_share
    FROM judged s JOIN slices c USING (domain) WHERE s.in_support GROUP BY s.domain
  ), estimated AS (
    SELECT *, above / images / null_share AS real_share,
           sqrt((1 - above / images) / above + (1 - null_share) / (null_share * (n + 2))) AS relative
    FROM counted
  )
  SELECT e.domain, images, greatest(0.0, 1 - real_share) AS generated_share,
         greatest(0.0, 1 - real_share * exp(1.645 * relative)) AS low,
         greatest(0.0, 1 - real_share * exp(-1.645 * relative)) AS high
  FROM estimated e WHERE
    -- lake: of_domain = '' OR
    of_domain IS NULL OR e.domain = of_domain ORDER BY e.domain;

-- Precision is expected of the score's own flags, before anybody looked.
CREATE OR REPLACE MACRO expected_precision(fpr) AS TABLE
  WITH flags AS (SELECT domain, count(*) FILTER (by_score = 'flagged') AS flagged, count(*) FILTER (by_score <> 'unsure') AS decided
                 FROM decided(fpr) GROUP BY domain)
  SELECT f.domain, f.flagged, least(f.flagged, fpr * f.decided * least(1.0, 1 - p.generated_share)) AS expected_false,
         CASE WHEN f.flagged > 0 THEN greatest(0.0, 1 - fpr * f.decided * least(1.0, 1 - p.generated_share) / f.flagged) END AS precision
  FROM flags f JOIN prevalence() p USING (domain) ORDER BY f.domain;

-- What the score flags, in a random order that is the same for everybody: whoever looks at the first n has a random sample.
CREATE MACRO review_order(fpr) AS TABLE
  SELECT row_number() OVER (ORDER BY md5(image_id::VARCHAR)) AS place, image_id, reviewed FROM decided(fpr) WHERE by_score = 'flagged';

CREATE MACRO review_sample(fpr, n) AS TABLE
  WITH next AS (
    SELECT place, image_id FROM review_order(fpr) WHERE reviewed IS NULL QUALIFY row_number() OVER (ORDER BY place) <= n
  )
  SELECT place, image_id, shard_url, key, score, p_value, caption, url FROM next JOIN scored USING (image_id) ORDER BY place;

-- Wilson's 95 % interval (Wilson 1927, Probable inference). The random sample is the review order up to its first gap.
CREATE MACRO precision_estimate(fpr) AS TABLE
  WITH ordered AS MATERIALIZED (SELECT place, reviewed FROM review_order(fpr)),
  seen AS (
    SELECT reviewed, place < coalesce(min(place) FILTER (reviewed IS NULL) OVER (), place + 1) AS in_sample FROM ordered
    QUALIFY reviewed IS NOT NULL
  ), counted AS (
    SELECT basis, (SELECT count(*) FROM ordered) AS flagged, count(reviewed) AS looked_at,
           count(*) FILTER (reviewed = 'generated') AS generated, count(*) FILTER (reviewed = 'real') AS real,
           count(*) FILTER (reviewed = 'unsure') AS undecided
    FROM (VALUES ('random sample', true), ('all reviewed', false)) bases(basis, strict)
    LEFT JOIN seen ON in_sample OR NOT strict GROUP BY basis
  ), shares AS (
    SELECT *, generated + real AS n, generated / nullif(generated + real, 0) AS precision, 1.959964 AS z FROM counted
  ), wilson AS (
    SELECT *, (precision + z ** 2 / (2 * n)) / (1 + z ** 2 / n) AS centre,
           z * sqrt(precision * (1 - precision) / n + z ** 2 / (4 * n ** 2)) / (1 + z ** 2 / n) AS half FROM shares
  )
  SELECT basis, flagged, looked_at, generated, real, undecided, precision,
         greatest(0.0, centre - half) AS low, least(1.0, centre + half) AS high
  FROM wilson ORDER BY basis DESC;

CREATE MACRO by_host(fpr) AS TABLE
  SELECT host, count(*) AS images, count(*) FILTER (decision = 'flagged') AS flagged,
         count(*) FILTER (decision = 'unsure') AS unsure, flagged / nullif(images - unsure, 0) AS flagged_share
  FROM decided(fpr) GROUP BY host ORDER BY flagged DESC, host;

CREATE MACRO by_shard(fpr) AS TABLE
  SELECT shard_url, count(*) AS images, count(*) FILTER (decision = 'flagged') AS flagged,
         count(*) FILTER (decision = 'unsure') AS unsure, flagged / nullif(images - unsure, 0) AS flagged_share
  FROM decided(fpr) GROUP BY shard_url ORDER BY flagged_share DESC NULLS LAST, shard_url;

-- Those that half or twice the budget would decide otherwise, nearest first.
CREATE MACRO near_line(fpr) AS TABLE
  SELECT * FROM decisions(fpr) WHERE by_score <> 'unsure' AND p_value BETWEEN fpr / 2 AND 2 * fpr
  ORDER BY abs(ln(p_value / fpr)), image_id;

-- Takes names or ids from `scorers`; each scorer's newest calibration counts, and no review: two scores are compared.
CREATE MACRO scorer_diff(scorer_a, scorer_b, fpr) AS TABLE
  WITH newest AS (
    SELECT s.name, s.scorer_id, arg_max(c.calibration_id, c.registered_at) AS calibration_id
    FROM scorers s JOIN calibrations c USING (scorer_id) GROUP BY ALL
  ), one AS (
    SELECT n.name, n.scorer_id::VARCHAR AS id, s.*, CASE
      WHEN NOT s.in_support OR fpr < c.smallest_budget THEN 'unsure' WHEN s.p_value <= fpr THEN 'flagged' ELSE 'kept' END AS decision
    FROM scores s JOIN newest n USING (scorer_id, calibration_id) JOIN calibration_slices c USING (calibration_id, domain)
    JOIN shards sh USING (shard_id, scorer_id, bank_id, calibration_id) WHERE sh.state = 'complete' AND NOT sh.superseded
  )
  SELECT image_id, a.shard_id, i.key, i.url, a.decision AS decision_a, b.decision AS decision_b,
         a.p_value AS p_value_a, b.p_value AS p_value_b, a.score AS score_a, b.score AS score_b
  FROM one a JOIN one b USING (image_id) JOIN images i USING (image_id)
  WHERE scorer_a IN (a.name, a.id) AND scorer_b IN (b.name, b.id)
  ORDER BY abs(ln(a.p_value / b.p_value)) DESC, image_id;
