"""`mdmf curate`, `retry`, `rescore` and `reap`: settings, backlog, execution, engines, names, artifacts."""
