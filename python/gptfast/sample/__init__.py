"""Sampling: generate text token by token, with filters on the distribution."""
