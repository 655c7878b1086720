"""Workers and prefetching by measurement: what the model consumes, what a worker produces, what the machine allows."""
