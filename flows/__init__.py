"""When, and in what order: Prefect flows that read like a table of contents."""
