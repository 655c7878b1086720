"""A torch DataLoader that Lightning knows was configured on purpose."""

import warnings
from typing import Any

from torch.utils.data import DataLoader

from lightning_fastdata import internals

__all__ = ["PlannedDataLoader", "as_it_is"]


class PlannedDataLoader(DataLoader[Any]):
    """A torch DataLoader whose workers were planned.

    It keeps no state of its own and hands every argument on, so Lightning can build it again with another sampler.
    The one difference: Lightning's hint "does not have many workers", which knows nothing of cgroup limits, other
    ranks or data in memory, is not given for it. Other loaders keep theirs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # torch counts the CPUs of the affinity mask only; an override or a repaired mask knows better.
            warnings.filterwarnings("ignore", message="This DataLoader will create .* worker processes")
            super().__init__(*args, **kwargs)
        internals.skip_worker_hint(self)

    def __iter__(self) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create .* worker processes")
            return super().__iter__()


def as_it_is(batch: Any) -> Any:
    """The collate function for a dataset that returns finished batches."""
    return batch
