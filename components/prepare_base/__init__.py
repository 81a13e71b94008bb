"""The component `prepare_base`."""
