"""Sampling: generation token by token, and the filters that shape it."""
