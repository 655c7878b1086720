"""DataModules on torchvision's datasets."""
