"""Around a retraining: its live metrics, its report, images that production sends back."""
