"""From options, hardware and workload to a loader plan with a reason for every value."""
