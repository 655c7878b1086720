"""The measurement of data wait while a Trainer runs."""
