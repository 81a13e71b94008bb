"""The component `prepare_source`."""
