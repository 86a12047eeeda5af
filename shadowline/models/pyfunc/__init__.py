"""The code that MLflow loads with a registered model. Nothing else imports it."""
