"""Lineage: digests, records, the chain they make, and the bundle that holds it."""
