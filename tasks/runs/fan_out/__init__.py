"""A corpus run: portions of its plan scored by child runs at the Prefect server."""
