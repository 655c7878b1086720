"""The logic of the DataModule meant to be subclassed; `lightning/` and `pytorch_lightning/` put it on a base class."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Never, Self

from lightning_fastdata.compat.rank_zero import log_rank_zero
from lightning_fastdata.datamodules.dataset_collections import as_given, to_builtin
from lightning_fastdata.datamodules.option_lookup import (
    UNREAD,
    Option,
    assign,
    is_packaged,
    keep_given,
    option,
    peek,
    state_of,
    takes,
)
from lightning_fastdata.datamodules.options import Auto, UnknownArgumentError, accepted_arguments
from lightning_fastdata.datamodules.split_loaders import (
    OPTIONS,
    batch_size_of,
    check_options,
    concurrent_pool,
    handed_auto,
    keep_plan,
    loader_arguments,
    make_loaders,
    other_pool,
    other_split,
)
from lightning_fastdata.datamodules.splits import split_dataset
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.build import LoaderRequest
from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.factory import check_seed, make_loader
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.trainer_context import trainer_context
from lightning_fastdata.loaders.worker_crash import WorkerDiedError
from lightning_fastdata.planning.options import FIELDS, Split

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule as Base
else:
    Base = object  # so that neither Lightning package is imported here

__all__ = ["FastDataModuleMixin"]


class FastDataModuleMixin(Base):
    """A LightningDataModule that configures its loaders for the machine it runs on.

    Subclass it and write what you would write anyway::

        class MyDataModule(FastDataModule):
            def setup(self, stage):
                self.train_dataset = MyDataset("train")
                self.val_dataset = MyDataset("val")

    or hand the datasets over: ``FastDataModule(train_set, val_set, batch_size=64)``. Each split may be one dataset,
    or a list or dict of datasets, nested or not, as Lightning takes loaders. A split that is None skips its loop.

    The plan of every loader made so far is in ``plans``, by split ("train", "val/0", "train/a"), each value with its
    reason; it is logged once, on rank 0.

    No batch-transfer hook is defined here, so those of the model run. Where a subclass defines one, Lightning runs
    that instead of the model's; for both, hand the batch on::

        def on_after_batch_transfer(self, batch, dataloader_idx):
            batch = augment(batch)
            return self.trainer.lightning_module.on_after_batch_transfer(batch, dataloader_idx)

    Args:
        train_dataset: Training data; usually set in ``setup``.
        val_dataset: Validation data.
        test_dataset: Test data.
        predict_dataset: Data to predict on.
        batch_size: Samples per batch and rank (count); None = 32.
        eval_batch_size: The same outside training; None = ``batch_size``.
        num_workers: Worker processes per loader, or "auto".
        pin_memory: Page-locked batches, or "auto".
        persistent_workers: Keep workers between epochs, or "auto".
        prefetch_factor: Batches each worker prepares ahead, None for torch's default, or "auto".
        drop_last: Leave out the incomplete last batch of training, None = no; evaluation always sees every sample.
        shuffle: Shuffle training data, None = yes; left aside for a sampler of your own or an IterableDataset, of which
            False ends the shuffling of a datapipe.
        val_split: Part of the training data to validate on when there is no ``val_dataset``: a share in [0, 1) as a
            float, or a number of samples as an int; None = nothing.
        test_split: The same for testing.
        seed: Decides the order of training and the random numbers of every sample; None = one number of a
            ``generator`` among ``dataloader_kwargs``, else the seed of ``seed_everything``, else one number of torch's
            default generator in each run.
        split_seed: Decides, alone, which samples ``val_split`` and ``test_split`` hold out; None = 42.
        deterministic: Seed Python's, NumPy's and torch's generators for every sample, so that batches do not depend on
            workers, ranks or restarts, None = yes; False saves some microseconds per sample.
        eval_repeats: Let several ranks validate and test on equally many samples, None = yes, as torch's
            DistributedSampler does: some of the first come twice. False evaluates each sample once, for metrics that
            gather unequal shapes.
        collate_fn: Puts samples together to a batch; None = torch's default.
        dataloader_kwargs: Further arguments of torch's DataLoader, for all splits (``{"timeout": 60}``) or per split
            (``{"train": {"sampler": my_sampler}}``). They win over everything else. Not written per split, ``sampler``,
            ``batch_sampler``, ``shuffle`` and ``drop_last`` apply to training alone.

    Raises:
        FastDataError: A value that cannot be meant, before any data is read.
    """

    # Any, so that type checkers let a subclass replace them by what it likes, a property too.
    train_dataset: Any = Option()
    val_dataset: Any = Option()
    test_dataset: Any = Option()
    predict_dataset: Any = Option()
    batch_size: Any = Option(32)
    eval_batch_size: Any = Option()
    num_workers: Any = Option("auto")
    pin_memory: Any = Option("auto")
    persistent_workers: Any = Option("auto")
    prefetch_factor: Any = Option("auto")
    multiprocessing_context: Any = Option("auto", saved=False)
    drop_last: Any = Option(False)
    shuffle: Any = Option(True)
    val_split: Any = Option(0.0, kinds=(int, float))
    # Not from hparams: where you cut a test set yourself when it is wanted, another would be cut off before.
    test_split: Any = Option(0.0, kinds=(int, float), saved=False)
    seed: Any = Option()
    split_seed: Any = Option(42)
    deterministic: Any = Option(True)
    eval_repeats: Any = Option(True)
    collate_fn: Any = Option(arguments=1)
    dataloader_kwargs: Any = Option()
    plans: Any = Option(computed=lambda module, _: state_of(module).plans, saved=False)

    def __init__(
        self,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        *,
        batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int | Auto = "auto",
        pin_memory: bool | Auto = "auto",
        persistent_workers: bool | Auto = "auto",
        prefetch_factor: int | Auto | None = "auto",
        drop_last: bool | None = None,
        shuffle: bool | None = None,
        val_split: int | float | None = None,  # int first: jsonargparse takes the first that fits, and 10 is no share
        test_split: int | float | None = None,
        seed: int | None = None,
        split_seed: int | None = None,
        deterministic: bool | None = None,
        eval_repeats: bool | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
        **unknown: Never,
    ) -> None:
        keep_given(self, locals())
        self._init_other_bases(unknown)
        check_options({name: value for name in OPTIONS if (value := peek(self, name)) is not UNREAD})
        for name in ("val", "test"):
            share = peek(self, f"{name}_split")
            if share and {f"{name}_split", f"{name}_dataset"} <= state_of(self).given:
                raise FastDataError(
                    f"{name}_split={share!r} together with a {name}_dataset.",
                    expected="one of the two.",
                    fix=f"leave out {name}_split, or the dataset.",
                )

    def _init_other_bases(self, arguments: dict[str, Any]) -> None:
        """Go on to the bases of a user's class that are behind ours, with what they take of the arguments."""
        behind = type(self).__mro__[type(self).__mro__.index(FastDataModuleMixin) + 1 :]
        theirs = [base for base in behind if not is_packaged(base) and "__init__" in vars(base)]
        unknown = arguments.keys() - set().union(*map(accepted_arguments, theirs))
        if unknown:
            raise UnknownArgumentError(type(self), unknown)
        # One that must be given something has been called by the user's class, or will be.
        if not theirs or arguments or takes(super().__init__):
            super().__init__(**arguments)

    @classmethod
    def from_datasets(  # Lightning's own would build its loaders past the plan
        cls,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int | None = None,
        num_workers: int | Auto | None = None,
        **datamodule_kwargs: Any,
    ) -> Self:
        """Make a DataModule from datasets; the loaders are planned like those of any other.

        Args:
            train_dataset: Training data: a dataset, or a list or dict of them.
            val_dataset: Validation data.
            test_dataset: Test data.
            predict_dataset: Data to predict on.
            batch_size: Samples per batch and rank (count); None = what the class itself takes.
            num_workers: Worker processes per loader, or "auto"; None = what the class itself takes.
            **datamodule_kwargs: Further arguments of the class.

        Returns:
            The DataModule.
        """
        parameters = inspect.signature(cls.__init__).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        offered: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
        given = {name: value for name, value in offered.items() if value is not None}
        taken = {name: value for name, value in given.items() if takes_any or name in parameters}
        module = cls(**taken, **datamodule_kwargs)
        datasets = {"train": train_dataset, "val": val_dataset, "test": test_dataset, "predict": predict_dataset}
        given |= {f"{split}_dataset": as_given(data) for split, data in datasets.items() if data is not None}
        for name, value in given.items():
            assign(module, name, value)  # also where __init__ does not take it
        check_options(given)
        return module

    def train_dataloader(self) -> Any:
        """The training loaders, planned now."""
        return make_loaders(self, "train")

    def val_dataloader(self) -> Any:
        """The validation loaders, planned now; none skips validation."""
        return make_loaders(self, "val")

    def test_dataloader(self) -> Any:
        """The test loaders, planned now."""
        return make_loaders(self, "test")

    def predict_dataloader(self) -> Any:
        """The prediction loaders, planned now."""
        return make_loaders(self, "predict")

    def datasets(self, split: Split) -> Any:
        """What a split serves, with ``val_split`` and ``test_split`` applied.

        Args:
            split: "train", "val", "test" or "predict".

        Returns:
            A dataset, a list or dict of datasets, or None.
        """
        own = to_builtin(option(self, f"{split}_dataset"))  # a setup() may have put anything there
        shares = {
            name: share
            for name in ("val", "test")
            if (share := option(self, f"{name}_split")) and peek(self, f"{name}_dataset") is None
        }
        if split not in ("train", *shares) or not shares:
            return own
        training = own if split == "train" else to_builtin(option(self, "train_dataset"))
        if training is None:
            if split == "train":
                return None
            raise FastDataError(
                f"{split}_split={shares[split]!r}, but train_dataset is None.",
                expected=f"training data to cut it from, also when Lightning calls setup('{split}').",
                fix=f"set self.train_dataset in setup() whatever the stage, or set self.{split}_dataset.",
            )
        return split_dataset(training, shares, option(self, "split_seed"))[split]

    def make_dataloader(self, split: Split, dataset: Any, *, name: str | None = None, loaders: int = 1) -> Any:
        """Make one loader; every ``*_dataloader`` hook goes through here, so this is the place to override.

        Args:
            split: "train", "val", "test" or "predict".
            dataset: The dataset it serves.
            name: Its name in ``plans``; None = the split.
            loaders: Loaders of this split (count), which share the workers.

        Returns:
            A torch ``DataLoader`` that Lightning can rebuild.

        Raises:
            FastDataError: The split is empty, a batch larger than the data with ``drop_last``, or see ``make_plan``.
        """
        name = name or split
        facts, state = trainer_context(self.trainer), state_of(self)
        given = self._kwargs_for(split)
        own = {field: option(self, field) for field in FIELDS}
        if given.get("batch_sampler") is None:  # which would decide all of these
            own["batch_size"] = batch_size_of(self, split)
            own["drop_last"] = option(self, "drop_last") and split == "train"
            shuffle = option(self, "shuffle")
            streams = traits_of(dataset).is_iterable and (shuffle or split != "train")
            if given.get("sampler") is None and not streams:  # a stream has an order of its own
                own["shuffle"] = shuffle and split == "train"
        request = LoaderRequest(
            dataset,
            split,
            {**own, **given},
            label=f"{type(self).__name__} {name}",
            name=None if name == split else name,
            seed=check_seed(option(self, "seed")),
            deterministic=option(self, "deterministic"),
            eval_repeats=option(self, "eval_repeats"),
            trainer=self.trainer,
            context=facts,
            loaders=loaders,
            concurrent_pool=concurrent_pool(self, split, facts),
            other_pool=other_pool(self, split, facts),
            other_pool_started=any(made.split("/")[0] == other_split(split) for made in state.plans),
        )
        return make_loader(request, on_plan=lambda plan: keep_plan(state, name, plan))

    def on_exception(self, exception: BaseException) -> None:
        """Say what to do where torch's error does not: a worker was lost in mid-step, or it was handed an "auto".

        Args:
            exception: What ended the run.
        """
        super().on_exception(exception)
        if names := handed_auto(exception):
            exception.add_note(
                f"{' and '.join(names)} is decided when {type(self).__name__} makes its own loaders: write "
                "auto_dataloader(dataset, trainer=self.trainer, ...) instead of DataLoader(dataset, ...), or set a "
                "number, self.num_workers = 4."
            )
        loader = getattr(self.trainer, "train_dataloader", None)
        if isinstance(loader, ResumableDataLoader) and not isinstance(exception, WorkerDiedError):
            died = loader.diagnose_crash(exception)
            if died is not None:
                log_rank_zero(str(died))

    def __getstate__(self) -> Any:
        """For a copy or another process: without the Trainer and its run, as Lightning does for the model."""
        state: Any = super().__getstate__()
        attributes, *slots = state if isinstance(state, tuple) else (state,)
        attributes = {**attributes, "trainer": None}
        return (attributes, *slots) if slots else attributes

    def __repr__(self) -> str:
        # Lightning's own __str__ asks for every loader, which would start planning from a print.
        known = {name: value for name in ("batch_size", *FIELDS[:4]) if (value := peek(self, name)) is not UNREAD}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in known.items())})"

    __str__ = __repr__

    def _kwargs_for(self, split: Split) -> dict[str, Any]:
        return loader_arguments(self, split)
