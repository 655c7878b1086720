"""The DataLoader that follows a plan and gives the same batches everywhere."""
