"""The folder WAREHOUSE.parts: part files, outcomes, kept signatures, plans, leases, on disk or in an object store."""
