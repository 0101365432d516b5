"""What runs on this machine, and what doesn't."""
