"""Med42 Pipeline: open, provable post-training of clinical language models."""

__version__ = "0.1.0"
