"""What all commands share: arguments, exit codes, progress, units."""
