-- Banks by name and version, calibrations by slice, and decisions whose error rate is known.

ALTER TABLE banks ADD COLUMN version INTEGER;       -- counts the banks of one name
ALTER TABLE banks ADD COLUMN url VARCHAR;           -- directory, or the name of a bundled one; null = from before this column
ALTER TABLE banks ADD COLUMN retired_at TIMESTAMPTZ;
ALTER TABLE calibrations ADD COLUMN version INTEGER; -- counts the calibrations of one bank
ALTER TABLE calibrations ADD COLUMN url VARCHAR;    -- file; null = the one in the bank's directory
UPDATE banks SET version = numbered.version
  FROM (SELECT bank_id, row_number() OVER (PARTITION BY name ORDER BY registered_at) AS version FROM banks) numbered
  WHERE banks.bank_id = numbered.bank_id;
UPDATE calibrations SET version = numbered.version
  FROM (SELECT calibration_id, row_number() OVER (PARTITION BY bank_id ORDER BY registered_at) AS version FROM calibrations) numbered
  WHERE calibrations.calibration_id = numbered.calibration_id;

CREATE TABLE calibration_slices (
  calibration_id UUID NOT NULL,
  domain VARCHAR NOT NULL,           -- slice of the bank
  images INTEGER NOT NULL,           -- held-out real images
  smallest_budget DOUBLE NOT NULL    -- 1 / (images + 1)
);
INSERT INTO calibration_slices SELECT calibration_id, domain, images, smallest_budget FROM calibrations;

-- What a budget gives: the share of real images that the rule p_value <= fpr flags is Beta distributed over calibrations.
CREATE TABLE calibration_budgets (
  calibration_id UUID NOT NULL,
  domain VARCHAR NOT NULL,
  budget DOUBLE NOT NULL,            -- false-positive rate asked for
  low DOUBLE NOT NULL,               -- 90 % range of the realised rate
  high DOUBLE NOT NULL,
  sure_line DOUBLE                   -- the p-value line that keeps the budget with 95 % confidence; null = too few images
);

CREATE VIEW slices AS
  SELECT c.domain, c.images, c.smallest_budget FROM calibration_slices c JOIN promoted USING (calibration_id);

CREATE VIEW budgets AS
  SELECT b.domain, b.budget, b.low, b.high, b.sure_line FROM calibration_budgets b JOIN promoted USING (calibration_id)
  ORDER BY b.domain, b.budget;

DROP MACRO TABLE flagged;
DROP MACRO TABLE kept;
DROP MACRO TABLE unsure;
DROP MACRO TABLE prevalence;
DROP MACRO TABLE version_diff;
DROP MACRO reachable;

-- The budget itself, or an error where no slice has the real images that it takes.
CREATE MACRO reachable(fpr) AS (
  SELECT CASE
    WHEN fpr >= 1 OR fpr <= 0 THEN error(printf('a false-positive budget lies between 0 and 1, got %s', fpr::VARCHAR))
    WHEN fpr < min(smallest_budget) THEN error(printf(
      'budget %s cannot be kept: this calibration has %d real images and reaches down to %.5f; it would take %d',
      fpr::VARCHAR, max(images), min(smallest_budget), ceil(1 / fpr - 1e-9)::BIGINT - 1))
    ELSE fpr END
  FROM slices
);

-- Every scored image with its verdict: flagged, kept, or unsure because no slice speaks for it or its slice has too few images.
CREATE MACRO decisions(fpr) AS TABLE
  SELECT s.*, CASE
    WHEN NOT s.in_support OR reachable(fpr) < c.smallest_budget THEN 'unsure'
    WHEN s.p_value <= fpr THEN 'flagged' ELSE 'kept' END AS decision
  FROM scored s JOIN slices c USING (domain);

CREATE MACRO flagged(fpr) AS TABLE
  SELECT * EXCLUDE (decision) FROM decisions(fpr) WHERE decision = 'flagged' ORDER BY score DESC;

CREATE MACRO kept(fpr) AS TABLE
  SELECT * EXCLUDE (decision) FROM decisions(fpr) WHERE decision = 'kept';

-- Without a budget: those that no slice covers; every calibration keeps one half.
CREATE MACRO unsure(fpr := 0.5) AS TABLE
  SELECT * EXCLUDE (decision) FROM decisions(fpr) WHERE decision = 'unsure';

-- At most fpr with 95 % confidence over the draw of the calibration images; takes the budgets that `budgets` lists.
CREATE MACRO flagged_surely(fpr) AS TABLE
  SELECT s.* FROM scored s JOIN budgets b USING (domain)
  WHERE b.budget = (SELECT CASE WHEN count(sure_line) = 0 THEN error(printf(
      'budget %s cannot be kept with 95 %% confidence: it would take %d real images of a slice, or it is not one of those in `budgets`',
      fpr::VARCHAR, ceil(ln(0.05) / ln(1 - fpr))::BIGINT)) ELSE fpr END FROM budgets WHERE budget = fpr)
    AND s.in_support AND s.p_value <= b.sure_line
  ORDER BY score DESC;

-- Benjamini and Hochberg (1995) over the corpus: the expected share of real images among these is at most `rate`.
CREATE MACRO discoveries(rate) AS TABLE
  WITH ranked AS (
    SELECT p_value, sum(count(*)) OVER (ORDER BY p_value) AS at_most, sum(count(*)) OVER () AS tests
    FROM scored WHERE in_support GROUP BY p_value
  ), line AS (SELECT coalesce(max(p_value), 0) AS p FROM ranked WHERE p_value <= rate * at_most / tests)
  SELECT s.* FROM scored s, line WHERE s.in_support AND s.p_value <= line.p ORDER BY score DESC;

-- Share of generated images: one minus Storey's estimate of the share of real ones, from the p-values above one half, which
-- generated images seldom reach (Storey 2002, A direct approach to false discovery rates). The 90 % interval adds the binomial
-- noise of the corpus to the Beta noise of the calibration. Too low where generated images pass as real.
CREATE MACRO prevalence(of_domain := NULL) AS TABLE -- embedded only
-- lake: CREATE MACRO prevalence(of_domain := '') AS TABLE
  WITH counted AS (
    SELECT s.domain, count(*) AS images, greatest(count(*) FILTER (p_value > 0.5), 1) AS above,
           any_value(c.images) AS n, (1 + any_value(c.images) - floor((any_value(c.images) + 1) / 2)) / (any_value(c.images) + 1) AS null_share
    FROM scored s JOIN slices c USING (domain) WHERE s.in_support GROUP BY s.domain
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

-- Of what `flagged(fpr)` lists: the share that is generated, one minus the false ones expected of the estimated real images.
CREATE MACRO expected_precision(fpr) AS TABLE
  WITH flags AS (SELECT domain, count(*) FILTER (decision = 'flagged') AS flagged, count(*) FILTER (decision <> 'unsure') AS decided
                 FROM decisions(fpr) GROUP BY domain)
  SELECT f.domain, f.flagged, least(f.flagged, fpr * f.decided * least(1.0, 1 - p.generated_share)) AS expected_false,
         CASE WHEN f.flagged > 0 THEN greatest(0.0, 1 - fpr * f.decided * least(1.0, 1 - p.generated_share) / f.flagged) END AS precision
  FROM flags f JOIN prevalence() p USING (domain) ORDER BY f.domain;

-- Images scored with both banks, largest change first. Takes ids from `banks`; a bank's newest calibration counts.
CREATE MACRO version_diff(bank_a, bank_b) AS TABLE
  WITH newest AS (
    SELECT bank_id, arg_max(calibration_id, registered_at) AS calibration_id FROM calibrations GROUP BY bank_id
  ), one AS (SELECT s.* FROM scores s JOIN newest USING (bank_id, calibration_id))
  SELECT i.shard_id, i.key, i.image_id, i.url, regexp_extract(i.url, '://([^/]+)', 1) AS host, sh.url AS shard_url,
         a.domain AS domain_a, b.domain AS domain_b, a.score AS score_a, b.score AS score_b,
         a.p_value AS p_value_a, b.p_value AS p_value_b, a.in_support AS in_support_a, b.in_support AS in_support_b
  FROM one a JOIN one b USING (image_id, shard_id, scorer_id) JOIN images i USING (image_id, shard_id)
  JOIN (SELECT DISTINCT shard_id, url FROM shards WHERE state = 'complete' AND NOT superseded) sh USING (shard_id)
  WHERE a.bank_id = bank_a::UUID AND b.bank_id = bank_b::UUID
  ORDER BY abs(ln(a.p_value) - ln(b.p_value)) DESC, i.image_id;

-- Who crossed the line between two banks, by domain and host.
CREATE MACRO crossed(bank_a, bank_b, fpr) AS TABLE
  SELECT domain_b AS domain, host, count(*) AS images,
         count(*) FILTER (p_value_a > fpr AND p_value_b <= fpr) AS newly_flagged,
         count(*) FILTER (p_value_a <= fpr AND p_value_b > fpr) AS no_longer_flagged
  FROM version_diff(bank_a, bank_b) GROUP BY ALL ORDER BY newly_flagged + no_longer_flagged DESC, domain, host;
