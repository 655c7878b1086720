"""LightningDataModules whose loaders go through the plan."""
