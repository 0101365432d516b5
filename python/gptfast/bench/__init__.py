"""Measuring the ops on a GPU: are they right, how fast beside their peers, what `auto` takes."""
