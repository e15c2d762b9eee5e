-- What the stages of a run cost.
ALTER TABLE runs ADD COLUMN metrics JSON;
COMMENT ON COLUMN runs.metrics IS 'wall seconds, and by stage [seconds, items, bytes] of reading, decoding, backbone, statistics, writing and landing; by queue [sum, looks, most]; null = running, killed, or from before this column';
