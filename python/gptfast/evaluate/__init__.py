"""Measure a model on a corpus without training it."""
