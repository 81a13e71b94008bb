"""Evaluation: benchmark rows, the protocol they are asked under, and the scores."""
