"""The DataLoader that follows a plan and serves the same batches everywhere."""
