"""The callbacks: the data wait monitor, the loader tuner, the data audit."""
