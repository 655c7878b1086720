"""A digest per epoch of which samples each global batch held, so that two runs can be compared in a line."""
