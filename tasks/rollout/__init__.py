"""The rollout: ticks, outbox, approvals, legacy models, the demo's migration."""
