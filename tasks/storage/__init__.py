"""Bytes wherever they lie: file systems, retries with a budget, verified reads, S3 pages, publishing whole files."""
