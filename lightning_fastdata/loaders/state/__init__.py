"""What a dataset holds: seen without running any of its code, and compared between two moments."""
