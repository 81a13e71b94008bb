"""The component `prepare_benchmarks`."""
