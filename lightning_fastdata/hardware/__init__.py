"""What this process may use: CPUs, memory, limits and accelerators, each with its source."""

from lightning_fastdata.hardware.detect import Accelerator, Hardware, Limit, probe

__all__ = ["Accelerator", "Hardware", "Limit", "probe"]
