"""How good a model is: metrics, gates, agreement of two models, tests that may be looked at at any time."""
