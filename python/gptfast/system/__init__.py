"""What the machine offers: files, locks, memory, signals. Used by every floor."""
