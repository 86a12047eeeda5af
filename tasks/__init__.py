"""The outside world, one file per piece of it: what a flow calls, and what may import a tracker or an orchestrator."""
