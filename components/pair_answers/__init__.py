"""The component `pair_answers`."""
