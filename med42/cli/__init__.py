"""The `med42` command."""
