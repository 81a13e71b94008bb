"""Data: from publishers' rows to conversations, one mix, and packed chunks."""
