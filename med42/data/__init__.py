"""Data: from publishers' rows to conversations, one mix, and packed chunks."""

from med42.data.memory import hold_little

hold_little()
