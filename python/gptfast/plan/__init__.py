"""The prediction of a run's cost before it starts."""
