"""Private names of torch and Lightning, each guarded; nothing else may touch them.

``lightning_loops``: what loaders ask of Lightning's loops. ``lightning_monitoring``: where the monitor is hooked in.
``torch_internals``: queues, workers and stores of torch. ``versions``: the version of this package.
"""
