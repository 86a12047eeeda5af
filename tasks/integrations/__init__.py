"""The outside world, one file for each system: git, DVC, MLflow, S3, Prefect's events, webhooks."""
