"""How good a model is: metrics, gates, agreement of two models, sequential tests."""
