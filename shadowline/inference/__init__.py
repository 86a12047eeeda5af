"""Which model answers for an image, and its answer: for the gateway, for batches and for the audit."""
