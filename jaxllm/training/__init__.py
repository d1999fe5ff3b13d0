"""One training loop: state, step, optimizers, checkpoints, recovery, metrics."""
