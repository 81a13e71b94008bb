"""The component `decide_release`."""
