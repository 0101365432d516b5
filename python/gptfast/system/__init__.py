"""The machine: files, locks, memory, signals, hardware. Used by every floor."""
