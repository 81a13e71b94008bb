"""The component `push_model`."""
