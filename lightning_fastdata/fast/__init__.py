"""Faster pieces: they know bytes, samples and batches, but no Trainer."""
