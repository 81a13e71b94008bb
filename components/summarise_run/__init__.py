"""The component `summarise_run`."""
