-- What every table, column, view and macro means. docs/schema.md is written from this (make schema).

COMMENT ON TABLE runs IS 'One row per run of a flow.';
COMMENT ON COLUMN runs.run_id IS 'the Prefect flow run''s id';
COMMENT ON COLUMN runs.flow IS 'curate, retry or rescore';
COMMENT ON COLUMN runs.state IS 'running, completed, failed, or crashed: its process died';
COMMENT ON COLUMN runs.source IS 'what was asked for: URL pattern, folder, or the warehouse';
COMMENT ON COLUMN runs.scorer_id IS 'scorer of the run';
COMMENT ON COLUMN runs.bank_id IS 'reference bank of the run';
COMMENT ON COLUMN runs.calibration_id IS 'calibration of the run';
COMMENT ON COLUMN runs.parameters IS 'all parameters of the flow';
COMMENT ON COLUMN runs.code_version IS 'version of mdmf';
COMMENT ON COLUMN runs.host IS 'machine that ran it';
COMMENT ON COLUMN runs.device IS 'device and compute type';
COMMENT ON COLUMN runs.started_at IS 'when it began';
COMMENT ON COLUMN runs.finished_at IS 'when it ended, or was found dead; null = running, or killed';
COMMENT ON COLUMN runs.message IS 'why it failed';

COMMENT ON TABLE shards IS 'One row per shard content and (scorer, bank, calibration). In every complete row members = scored + excluded.';
COMMENT ON COLUMN shards.shard_id IS 'of URL, size and digest';
COMMENT ON COLUMN shards.url IS 'where it lies';
COMMENT ON COLUMN shards.kind IS 'tar, parquet or folder';
COMMENT ON COLUMN shards.digest IS 'sha256 of its bytes; null until it was read to the end';
COMMENT ON COLUMN shards.size_bytes IS 'size of the file';
COMMENT ON COLUMN shards.fingerprint IS 'ETag, or size and time of change: tells an unchanged shard without reading it';
COMMENT ON COLUMN shards.state IS 'complete, deferred or failed';
COMMENT ON COLUMN shards.reason IS 'why deferred or failed: storage, unfinished, corrupt, killed or error, a colon, and what happened';
COMMENT ON COLUMN shards.members IS 'entries found in it';
COMMENT ON COLUMN shards.scored IS 'members with a score';
COMMENT ON COLUMN shards.excluded IS 'members without a score, each with a reason';
COMMENT ON COLUMN shards.superseded IS 'the same URL was read again with other content';
COMMENT ON COLUMN shards.scorer_id IS 'scorer of these scores';
COMMENT ON COLUMN shards.bank_id IS 'reference bank of these scores';
COMMENT ON COLUMN shards.calibration_id IS 'calibration of these p-values';
COMMENT ON COLUMN shards.run_id IS 'run that scored it';
COMMENT ON COLUMN shards.seconds IS 'from reading to the finished part';
COMMENT ON COLUMN shards.committed_at IS 'when its rows became visible';
COMMENT ON COLUMN shards.generation IS 'of the lease it was landed under; a lower one cannot replace it';
COMMENT ON COLUMN shards.part_sha256 IS 'of the part''s file, as landed; null = from before this column';

COMMENT ON TABLE images IS 'One row per decoded or identified image of a shard.';
COMMENT ON COLUMN images.image_id IS 'of shard, key and sha256; the same in every run';
COMMENT ON COLUMN images.shard_id IS 'shard that holds it';
COMMENT ON COLUMN images.key IS 'as the source gives it';
COMMENT ON COLUMN images.sha256 IS 'of the encoded file';
COMMENT ON COLUMN images.format IS 'JPEG, PNG or WEBP';
COMMENT ON COLUMN images.width IS 'pixels, upright';
COMMENT ON COLUMN images.height IS 'pixels, upright';
COMMENT ON COLUMN images.bytes IS 'size of the encoded file';
COMMENT ON COLUMN images.locator IS 'byte offset in a tar, row number in a parquet file';
COMMENT ON COLUMN images.jpeg_quality IS 'as its quantisation tables say; null = no JPEG';
COMMENT ON COLUMN images.border_px IS 'widest uniform edge, not scored';
COMMENT ON COLUMN images.resized IS 'as the sidecar''s original size says; null = not said';
COMMENT ON COLUMN images.caption IS 'text beside the image';
COMMENT ON COLUMN images.url IS 'where it was collected';
COMMENT ON COLUMN images.sidecar IS 'the json beside the image, as it is';

COMMENT ON TABLE scores IS 'One row per image and (scorer, bank, calibration). Rows are added, never changed.';
COMMENT ON COLUMN scores.image_id IS 'image that was scored';
COMMENT ON COLUMN scores.shard_id IS 'shard that holds it';
COMMENT ON COLUMN scores.scorer_id IS 'scorer of this score';
COMMENT ON COLUMN scores.bank_id IS 'reference bank of this score';
COMMENT ON COLUMN scores.calibration_id IS 'calibration of this p-value';
COMMENT ON COLUMN scores.run_id IS 'run that scored it';
COMMENT ON COLUMN scores.score IS 'higher = more likely generated';
COMMENT ON COLUMN scores.mmd2 IS 'squared MMD between the image''s patches and the bank';
COMMENT ON COLUMN scores.cross_term IS 'mean kernel value between the image''s patches and the bank';
COMMENT ON COLUMN scores.self_term IS 'mean kernel value between its own patches';
COMMENT ON COLUMN scores.top_k IS 'mean bank density of the patches farthest from the bank; low = far';
COMMENT ON COLUMN scores.top_patch IS 'index of the patch farthest from the bank';
COMMENT ON COLUMN scores.patches IS 'number of patches';
COMMENT ON COLUMN scores.p_value IS 'share of calibration images at least this unlike the bank; small = unlike real images, never 0';
COMMENT ON COLUMN scores.domain IS 'slice of the bank that speaks for the image';
COMMENT ON COLUMN scores.in_support IS 'size and quality lie in the calibration''s range; false = unsure';
COMMENT ON COLUMN scores.scored_at IS 'when it was scored';
COMMENT ON COLUMN scores.host IS 'of the image''s URL; null = none';

COMMENT ON TABLE exclusions IS 'One row per member without a score, with its reason.';
COMMENT ON COLUMN exclusions.shard_id IS 'shard that holds it';
COMMENT ON COLUMN exclusions.key IS 'as the source gives it';
COMMENT ON COLUMN exclusions.image_id IS 'of shard, key and sha256';
COMMENT ON COLUMN exclusions.reason IS 'one word: truncated, too_small, not_an_image ...';
COMMENT ON COLUMN exclusions.detail IS 'what the decoder found';
COMMENT ON COLUMN exclusions.scorer_id IS 'scorer of the run';
COMMENT ON COLUMN exclusions.bank_id IS 'reference bank of the run';
COMMENT ON COLUMN exclusions.calibration_id IS 'calibration of the run';
COMMENT ON COLUMN exclusions.run_id IS 'run that excluded it';

COMMENT ON TABLE scorers IS 'Registry: backbone, crops, PFS and statistic under one digest.';
COMMENT ON COLUMN scorers.scorer_id IS 'first 128 bits of the digest';
COMMENT ON COLUMN scorers.name IS 'as its card says';
COMMENT ON COLUMN scorers.digest IS 'sha256 of everything that changes a score';
COMMENT ON COLUMN scorers.card IS 'backbone, crops and statistic';
COMMENT ON COLUMN scorers.registered_at IS 'when this warehouse first saw it';

COMMENT ON TABLE banks IS 'Registry: reference banks of real images.';
COMMENT ON COLUMN banks.bank_id IS 'first 128 bits of the digest';
COMMENT ON COLUMN banks.scorer_id IS 'scorer it was built with';
COMMENT ON COLUMN banks.name IS 'photos in photos@3';
COMMENT ON COLUMN banks.digest IS 'sha256 of points, weights, bandwidth and members';
COMMENT ON COLUMN banks.points IS 'of the coreset, all slices';
COMMENT ON COLUMN banks.patches IS 'that the points stand for';
COMMENT ON COLUMN banks.images IS 'real images it was built from';
COMMENT ON COLUMN banks.sigma IS 'bandwidth of the kernel';
COMMENT ON COLUMN banks.coreset_error IS 'MMD between patches and points';
COMMENT ON COLUMN banks.registered_at IS 'when this warehouse first saw it';
COMMENT ON COLUMN banks.version IS 'counts the banks of one name';
COMMENT ON COLUMN banks.url IS 'directory, or the name of a bundled one; null = from before this column';
COMMENT ON COLUMN banks.retired_at IS 'when it was taken out of use';

COMMENT ON TABLE bank_members IS 'Registry: the real images that a bank was built from.';
COMMENT ON COLUMN bank_members.bank_id IS 'the bank';
COMMENT ON COLUMN bank_members.source IS 'collection it came from';
COMMENT ON COLUMN bank_members.key IS 'as the source gives it';
COMMENT ON COLUMN bank_members.sha256 IS 'of the encoded file';
COMMENT ON COLUMN bank_members.domain IS 'slice it belongs to';
COMMENT ON COLUMN bank_members.licence IS 'as its sidecar says';

COMMENT ON TABLE calibrations IS 'Registry: scores of held-out real images, from which p-values come.';
COMMENT ON COLUMN calibrations.calibration_id IS 'first 128 bits of the digest';
COMMENT ON COLUMN calibrations.scorer_id IS 'scorer of its scores';
COMMENT ON COLUMN calibrations.bank_id IS 'bank it calibrates';
COMMENT ON COLUMN calibrations.domain IS 'its slices';
COMMENT ON COLUMN calibrations.digest IS 'sha256 of its scores and images';
COMMENT ON COLUMN calibrations.images IS 'held-out real images, all slices';
COMMENT ON COLUMN calibrations.smallest_budget IS 'that its largest slice can keep';
COMMENT ON COLUMN calibrations.registered_at IS 'when this warehouse first saw it';
COMMENT ON COLUMN calibrations.version IS 'counts the calibrations of one bank';
COMMENT ON COLUMN calibrations.url IS 'file; null = the one in the bank''s directory';

COMMENT ON TABLE calibration_slices IS 'Registry: the calibrations'' slices.';
COMMENT ON COLUMN calibration_slices.calibration_id IS 'the calibration';
COMMENT ON COLUMN calibration_slices.domain IS 'slice of the bank';
COMMENT ON COLUMN calibration_slices.images IS 'held-out real images';
COMMENT ON COLUMN calibration_slices.smallest_budget IS '1 / (images + 1)';

COMMENT ON TABLE calibration_budgets IS 'Registry: what a false-positive budget really gives.';
COMMENT ON COLUMN calibration_budgets.calibration_id IS 'the calibration';
COMMENT ON COLUMN calibration_budgets.domain IS 'slice of the bank';
COMMENT ON COLUMN calibration_budgets.budget IS 'false-positive rate asked for';
COMMENT ON COLUMN calibration_budgets.low IS 'lower end of the 90 % range of the realised rate';
COMMENT ON COLUMN calibration_budgets.high IS 'upper end of the 90 % range of the realised rate';
COMMENT ON COLUMN calibration_budgets.sure_line IS 'the p-value line that keeps the budget with 95 % confidence; null = too few images';

COMMENT ON TABLE bank_aliases IS 'History of promotions; the newest row of an alias is in force.';
COMMENT ON COLUMN bank_aliases.alias IS 'production is what the views show';
COMMENT ON COLUMN bank_aliases.scorer_id IS 'scorer promoted';
COMMENT ON COLUMN bank_aliases.bank_id IS 'bank promoted';
COMMENT ON COLUMN bank_aliases.calibration_id IS 'calibration promoted';
COMMENT ON COLUMN bank_aliases.promoted_at IS 'when';

COMMENT ON TABLE reviews IS 'What people said about images. History: rows are added, never changed.';
COMMENT ON COLUMN reviews.image_id IS 'the image that was looked at';
COMMENT ON COLUMN reviews.sha256 IS 'of its bytes: the verdict goes with them into other shards, scorers and banks';
COMMENT ON COLUMN reviews.shard_id IS 'shard that held it';
COMMENT ON COLUMN reviews.key IS 'as the source gives it';
COMMENT ON COLUMN reviews.verdict IS 'generated, real or unsure';
COMMENT ON COLUMN reviews.reviewer IS 'who';
COMMENT ON COLUMN reviews.reason IS 'why; null = not said';
COMMENT ON COLUMN reviews.reviewed_at IS 'when, as the file says, or when it was imported';
COMMENT ON COLUMN reviews.imported_at IS 'when it was imported';
COMMENT ON COLUMN reviews.file_sha256 IS 'of the file of verdicts';

COMMENT ON TABLE migrations IS 'Steps of the schema that this warehouse has.';
COMMENT ON COLUMN migrations.name IS 'file of the step';
COMMENT ON COLUMN migrations.applied_at IS 'when';

COMMENT ON VIEW promoted IS 'The scorer, bank and calibration that are @production: every view shows these alone.';

COMMENT ON VIEW judged IS 'The scores that count, without the images: what to count with.';
COMMENT ON COLUMN judged.shard_url IS 'where the shard lies'; -- embedded only

COMMENT ON VIEW scored IS 'One row per scored image: the image and its score under the promoted scorer, bank and calibration.';
COMMENT ON COLUMN scored.shard_url IS 'where the shard lies'; -- embedded only

COMMENT ON VIEW excluded IS 'Members without a score under the promoted scorer, bank and calibration.';
COMMENT ON COLUMN excluded.shard_url IS 'where the shard lies'; -- embedded only

COMMENT ON VIEW accounting IS 'Every shard with members = scored + excluded.';

COMMENT ON VIEW slices IS 'The promoted calibration''s slices.';

COMMENT ON VIEW budgets IS 'What budgets really give under the promoted calibration.';

COMMENT ON VIEW reviewed IS 'The newest verdict on every image that somebody looked at.';

COMMENT ON VIEW verdicts IS 'The verdict that counts for every image of the warehouse with those bytes.';

COMMENT ON MACRO reachable IS 'The budget itself, or an error where the calibration has too few images to keep it.';

COMMENT ON MACRO TABLE decided IS 'Every score as flagged, kept or unsure, without the image: what to count with.';

COMMENT ON MACRO TABLE decisions IS 'Every scored image with by_score, reviewed, decided_by and decision.';

COMMENT ON MACRO TABLE flagged IS 'Images to leave out: by score at this false-positive budget, or by review.';

COMMENT ON MACRO TABLE kept IS 'Images that stay.';

COMMENT ON MACRO TABLE unsure IS 'Images that no slice speaks for, or whose reviewer could not say.';

COMMENT ON MACRO TABLE flagged_surely IS 'By score: at most this share of real images, with 95 % confidence; takes a budget of `budgets`.';

COMMENT ON MACRO TABLE discoveries IS 'By score: at most this share of these is real, in expectation (Benjamini and Hochberg).';

COMMENT ON MACRO TABLE prevalence IS 'Estimated share of generated images by domain, with a 90 % interval.';

COMMENT ON MACRO TABLE expected_precision IS 'Of what the score flags, the share that is generated, as prevalence and budget say.';

COMMENT ON MACRO TABLE precision_estimate IS 'Of what the score flags, the share that reviewers call generated, with a 95 % interval.';

COMMENT ON MACRO TABLE review_order IS 'What the score flags, in a random order that is the same for everybody.';

COMMENT ON MACRO TABLE review_sample IS 'The next n images of the review order that nobody has looked at.';

COMMENT ON MACRO TABLE by_host IS 'Flagged share by source domain.';

COMMENT ON MACRO TABLE by_shard IS 'Flagged share by shard, worst first.';

COMMENT ON MACRO TABLE near_line IS 'Images that half or twice the budget would decide otherwise, nearest first.';

COMMENT ON MACRO TABLE scorer_diff IS 'Images scored by two scorers, by name or id, with what each says; largest difference first.';

COMMENT ON MACRO TABLE version_diff IS 'Images scored under two banks, by id, largest change first.';

COMMENT ON MACRO TABLE crossed IS 'Who crossed the line between two banks, by domain and host.';
