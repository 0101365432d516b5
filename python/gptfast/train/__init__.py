"""Training: the loop, its optimizers and schedule, checkpoints and what it shows."""
