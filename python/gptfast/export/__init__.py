"""A model folder in formats of other programs."""
