"""What flows call, one file per part of the outside world; only tasks and flows import a tracker or an orchestrator."""
