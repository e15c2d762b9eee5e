"""One adapter per effect: storage, decoding, scoring, landing, reporting. Small records in and out, no arithmetic."""
