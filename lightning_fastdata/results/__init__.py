"""What a run measured, as data, without torch."""
