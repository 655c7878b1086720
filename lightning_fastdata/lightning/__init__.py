"""The public classes on the ``lightning`` package; `lightning_fastdata` itself offers them."""
