"""The component `build_preferences`."""
