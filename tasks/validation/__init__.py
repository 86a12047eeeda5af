"""Great Expectations over the manifest: `python -m tasks.validation`."""
