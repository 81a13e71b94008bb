"""Converters of preference sets: one module a family, each with `pair(row)` for a row in the publisher's own columns."""
