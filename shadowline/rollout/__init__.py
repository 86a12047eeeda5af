"""The pure rollout engine: phases, policy, guards, step. No clock, no database, no network."""
