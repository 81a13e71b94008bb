"""The component `seal_audit`."""
