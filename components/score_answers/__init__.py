"""The component `score_answers`."""
