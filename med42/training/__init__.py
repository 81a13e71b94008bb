"""Training: the base model, supervised fine-tuning, and rounds of direct preference optimisation."""
