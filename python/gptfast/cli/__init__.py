"""Shared parts of all commands: arguments, exit codes, progress, units."""
