"""The terms of the reports, each in at most two sentences; the page shows the ones that it uses."""

__all__ = ["TERMS"]

TERMS: dict[str, str] = {
    "data wait": "Time in which the training process is blocked because it has no batch. Near 0 means that batches are"
    " always ready.",
    "input-bound": "More than 20 % of the time is data wait, so a faster loader makes the run faster. From 5 to 20 % a"
    " run is moderately input-bound.",
    "stall": "A fetch that finds its batch unfinished and blocks until a worker delivers it.",
    "prefetch queue": "Batches that the workers load ahead of the training, at most num_workers * prefetch_factor.",
    "occupancy": "How many batches in the prefetch queue are ready when the training process asks for one.",
    "worker startup": "Starting the worker processes, from the first of them to their first batch.",
    "worker-to-main transfer": "Taking a finished batch out of the queue, deserializing it and pinning its memory.",
    "loaded in the main process": "Without workers the training process loads each batch itself, and computes nothing"
    " meanwhile.",
    "epoch boundary": "From the last step of an epoch to the first batch of the next one. Iterators are reset, workers"
    " may start again, the prefetch queue fills up.",
    "straggler": "The rank with the longest data wait in a step. All other ranks wait for it when they synchronize.",
    "host-to-device transfer": "Copying a batch from the memory of the CPU to the accelerator.",
    "GPU starved": "The GPU has no work left while a batch is fetched. Only this part of the data wait costs GPU time.",
    "overlapped wait": "Data wait during which the GPU still has work, so it costs no time.",
    "max speedup at zero data wait": "The run time after startup, divided by the same time without its data wait. No"
    " loader can make the run faster than that.",
}
"""A term in lower case, with what it means."""
