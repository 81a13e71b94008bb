"""The component `mix_data`."""
