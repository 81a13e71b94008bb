"""Converters of benchmarks: one module a family, each with `item(row)` for a row in the publisher's own columns."""
