"""Records turned into something to read: pure functions, no torch."""
