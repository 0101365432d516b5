"""Tasks whose answers a program verifies, and rewards, which are functions of an answer."""
