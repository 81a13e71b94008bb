"""The component `train_sft`."""
