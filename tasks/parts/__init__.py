"""This room keeps the folder WAREHOUSE.parts, on disk or in an object store: parts, kept signatures, plans and leases."""
