"""Private names of torch and Lightning, each guarded; nothing else may touch them."""
