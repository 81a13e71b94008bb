"""The pipelines: the stages as one readable story, and what is compiled from it."""
