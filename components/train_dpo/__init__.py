"""The component `train_dpo`."""
