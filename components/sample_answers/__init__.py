"""The component `sample_answers`."""
