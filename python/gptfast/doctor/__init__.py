"""The diagnosis of this machine."""
