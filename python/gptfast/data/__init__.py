"""Data: where text comes from, how it is split and stored as tokens, and batches of it."""
