"""The component `pack_data`."""
