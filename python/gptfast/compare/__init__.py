"""Comparing finished or running runs with one another."""
