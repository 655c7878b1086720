"""The cache of decoded or shrunk images."""
