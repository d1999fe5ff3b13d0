"""Training methods as losses: (params, batch, key) -> (loss, metrics)."""
