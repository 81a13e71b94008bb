"""Preferences: published pairs of a better and a worse answer, one set a round of DPO."""
