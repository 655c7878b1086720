"""The logic of the DataModule meant to be subclassed; `lightning/` and `pytorch_lightning/` put it on a base class."""

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, Never, Self

from lightning_fastdata.compat.rank_zero import log_rank_zero
from lightning_fastdata.datamodules.dataset_collections import (
    COLLECTIONS,
    as_given,
    check_datasets,
    flattened,
    to_builtin,
)
from lightning_fastdata.datamodules.options import Auto, UnknownArgumentError, check_loader_kwargs, loader_kwargs
from lightning_fastdata.datamodules.splits import check_shares, split_dataset
from lightning_fastdata.errors import FastDataError, check_bool, check_int
from lightning_fastdata.loaders.build import LoaderRequest
from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.factory import check_seed, log_plan, make_loader
from lightning_fastdata.loaders.footprint import pool_of
from lightning_fastdata.loaders.resumable import ResumableDataLoader
from lightning_fastdata.loaders.trainer_context import TrainerContext, trainer_context
from lightning_fastdata.loaders.worker_crash import WorkerDiedError
from lightning_fastdata.planning.options import FIELDS, LoaderOptions, LoaderPlan, Pool, Split

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
        batch_size: Samples per batch and rank (count).
        eval_batch_size: The same outside training; None = ``batch_size``.
        num_workers: Worker processes per loader, or "auto".
        pin_memory: Page-locked batches, or "auto".
        persistent_workers: Keep workers between epochs, or "auto".
        prefetch_factor: Batches each worker prepares ahead, None for torch's default, or "auto".
        drop_last: Leave out the incomplete last batch of training; evaluation always sees every sample.
        shuffle: Shuffle training data; left aside for a sampler of your own or an IterableDataset, of which False
            ends the shuffling of a datapipe.
        val_split: Part of the training data to validate on when there is no ``val_dataset``: a share in [0, 1) as a
            float, or a number of samples as an int.
        test_split: The same for testing.
        seed: Decides the order of training and the random numbers of every sample; None = one number of a
            ``generator`` among ``dataloader_kwargs``, else the seed of ``seed_everything``, else one number of torch's
            default generator in each run.
        split_seed: Decides, alone, which samples ``val_split`` and ``test_split`` hold out.
        deterministic: Seed Python's, NumPy's and torch's generators for every sample, so that batches do not depend on
            workers, ranks or restarts; False saves some microseconds per sample.
        eval_repeats: Let several ranks validate and test on equally many samples, as torch's DistributedSampler does:
            some of the first come twice. False evaluates each sample once, for metrics that gather unequal shapes.
        collate_fn: Puts samples together to a batch; None = torch's default.
        dataloader_kwargs: Further arguments of torch's DataLoader, for all splits (``{"timeout": 60}``) or per split
            (``{"train": {"sampler": my_sampler}}``). They win over everything else. Not written per split, ``sampler``,
            ``batch_sampler``, ``shuffle`` and ``drop_last`` apply to training alone.

    Raises:
        FastDataError: A value that cannot be meant, before any data is read.
    """

    def __init__(
        self,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        *,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int | Auto = "auto",
        pin_memory: bool | Auto = "auto",
        persistent_workers: bool | Auto = "auto",
        prefetch_factor: int | Auto | None = "auto",
        drop_last: bool = False,
        shuffle: bool = True,
        val_split: int | float = 0.0,  # int first: jsonargparse takes the first that fits, and 10 is no share
        test_split: int | float = 0.0,
        seed: int | None = None,
        split_seed: int = 42,
        deterministic: bool = True,
        eval_repeats: bool = True,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise UnknownArgumentError(type(self), unknown)
        super().__init__()
        self.train_dataset = to_builtin(train_dataset)
        self.val_dataset = to_builtin(val_dataset)
        self.test_dataset = to_builtin(test_dataset)
        self.predict_dataset = to_builtin(predict_dataset)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.prefetch_factor = prefetch_factor
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.val_split = val_split
        self.test_split = test_split
        self.seed = seed
        self.split_seed = split_seed
        self.deterministic = deterministic
        self.eval_repeats = eval_repeats
        self.collate_fn = collate_fn
        self.dataloader_kwargs = to_builtin(dataloader_kwargs)
        self.plans: dict[str, LoaderPlan] = {}
        self._logged: set[str] = set()
        self._check_arguments()

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
        for name, value in given.items():
            setattr(module, name, value)  # also where __init__ does not take it
        module._check_arguments()
        module.train_dataset, module.val_dataset = as_given(train_dataset), as_given(val_dataset)
        module.test_dataset, module.predict_dataset = as_given(test_dataset), as_given(predict_dataset)
        return module

    def train_dataloader(self) -> Any:
        """The training loaders, planned now."""
        if self.train_dataset is None:
            raise FastDataError(
                f"{type(self).__name__} has no training data: train_dataset is None after setup('fit').",
                expected="a dataset, or a list or dict of them.",
                fix="set self.train_dataset in setup(), or pass train_dataset=...",
            )
        return self._loaders("train")

    def val_dataloader(self) -> Any:
        """The validation loaders, planned now; none skips validation."""
        return self._loaders("val")

    def test_dataloader(self) -> Any:
        """The test loaders, planned now."""
        return self._loaders("test")

    def predict_dataloader(self) -> Any:
        """The prediction loaders, planned now."""
        return self._loaders("predict")

    def datasets(self, split: Split) -> Any:
        """What a split serves, with ``val_split`` and ``test_split`` applied.

        Args:
            split: "train", "val", "test" or "predict".

        Returns:
            A dataset, a list or dict of datasets, or None.
        """
        own = to_builtin(getattr(self, f"{split}_dataset"))  # a setup() may have put anything there
        shares = {
            name: share
            for name, share in (("val", self.val_split), ("test", self.test_split))
            if share and getattr(self, f"{name}_dataset") is None
        }
        if split not in ("train", *shares) or not shares:
            return own
        if self.train_dataset is None:
            if split == "train":
                return None
            raise FastDataError(
                f"{split}_split={shares[split]!r}, but train_dataset is None.",
                expected=f"training data to cut it from, also when Lightning calls setup('{split}').",
                fix=f"set self.train_dataset in setup() whatever the stage, or set self.{split}_dataset.",
            )
        return split_dataset(self.train_dataset, shares, self.split_seed)[split]

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
        facts = trainer_context(self.trainer)
        given = self._kwargs_for(split)
        own = {option: getattr(self, option) for option in FIELDS if hasattr(self, option)}
        if given.get("batch_sampler") is None:  # which would decide all of these
            own["batch_size"] = self._batch_size_of(split)
            own["drop_last"] = self.drop_last and split == "train"
            streams = traits_of(dataset).is_iterable and (self.shuffle or split != "train")
            if given.get("sampler") is None and not streams:  # a stream has an order of its own
                own["shuffle"] = self.shuffle and split == "train"
        request = LoaderRequest(
            dataset,
            split,
            {**own, **given},
            label=f"{type(self).__name__} {name}",
            name=None if name == split else name,
            seed=check_seed(self.seed),
            deterministic=self.deterministic,
            eval_repeats=self.eval_repeats,
            trainer=self.trainer,
            context=facts,
            loaders=loaders,
            concurrent_pool=self._concurrent_pool(split, facts),
            other_pool=self._other_pool(split, facts),
            other_pool_started=any(made.split("/")[0] == _other(split) for made in self.plans),
        )
        return make_loader(request, on_plan=lambda plan: self._on_plan(name, plan))

    def on_exception(self, exception: BaseException) -> None:
        """Say why a worker was lost where torch noticed it in mid-step, and its error came without ours.

        Args:
            exception: What ended the run.
        """
        super().on_exception(exception)
        loader = getattr(self.trainer, "train_dataloader", None)
        if isinstance(loader, ResumableDataLoader) and not isinstance(exception, WorkerDiedError):
            died = loader.diagnose_crash(exception)
            if died is not None:
                log_rank_zero(str(died))

    def __repr__(self) -> str:
        # Lightning's own __str__ asks for every loader, which would start planning from a print.
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("batch_size", *FIELDS[:4]))
        return f"{type(self).__name__}({options})"

    __str__ = __repr__

    def _loaders(self, split: Split) -> Any:
        datasets = self.datasets(split)
        check_datasets(split, datasets)
        if datasets is None:
            return []
        if not isinstance(datasets, COLLECTIONS):
            return self.make_dataloader(split, datasets)
        return self._collection(split, datasets, split, len(flattened(datasets)))

    def _collection(self, split: Split, datasets: Any, name: str, loaders: int) -> Any:
        """Loaders in the structure of their datasets, which may be nested: Lightning gives batches in the same one."""
        if isinstance(datasets, Mapping):
            return {key: self._collection(split, inner, f"{name}/{key}", loaders) for key, inner in datasets.items()}
        if isinstance(datasets, (list, tuple)):
            inners = enumerate(datasets)
            return [self._collection(split, inner, f"{name}/{index}", loaders) for index, inner in inners]
        return self.make_dataloader(split, datasets, name=name, loaders=loaders)

    def _batch_size_of(self, split: Split) -> int:
        return self.batch_size if split == "train" or self.eval_batch_size is None else self.eval_batch_size

    def _kwargs_for(self, split: Split) -> dict[str, Any]:
        """Loader arguments of a split: the DataModule's collate_fn, then the user's dataloader_kwargs over it."""
        own = {} if self.collate_fn is None else {"collate_fn": self.collate_fn}
        return {**own, **loader_kwargs(self.dataloader_kwargs or {}, split)}

    def _has_collate_fn(self, *splits: Split) -> bool:
        """Whether the user collates the batches of some of these splits, and so wants samples."""
        return any(FastDataModuleMixin._kwargs_for(self, split).get("collate_fn") is not None for split in splits)

    def _concurrent_pool(self, split: Split, context: TrainerContext) -> bool:
        """Whether workers of training and of validation are alive together."""
        if not context.fitting or not context.validates or split not in ("train", "val"):
            return False
        other = _other(split)
        # Uncut: cutting held-out parts here would ask for training data that a validation alone does not need.
        datasets = to_builtin(getattr(self, f"{other}_dataset"))
        if datasets is None and other == "val" and self.val_split:
            datasets = self.train_dataset
        if datasets is None or self._kwargs_for(other).get("num_workers", self.num_workers) == 0:
            return False
        return not all(traits_of(dataset).in_memory for dataset in flattened(datasets))

    def _other_pool(self, split: Split, context: TrainerContext) -> Pool | None:
        """The workers that live beside those of ``split``, where the user has decided their number; else None."""
        other = _other(split)
        kwargs = self._kwargs_for(other)
        workers = kwargs.get("num_workers", self.num_workers)
        if not isinstance(workers, Integral) or not self._concurrent_pool(split, context):
            return None
        batched = kwargs.get("batch_sampler") is None
        return pool_of(
            flattened(self.datasets(other)),
            num_workers=int(workers),
            prefetch_factor=kwargs.get("prefetch_factor", self.prefetch_factor),
            batch_size=kwargs.get("batch_size", self._batch_size_of(other)) if batched else None,
            ranks=context.share[1] if context.share else 1,
            alive_together=other == "train",
        )

    def _on_plan(self, name: str, plan: LoaderPlan) -> None:
        """Keep the plan of a loader, and log it unless the same values were logged before."""
        self.plans[name] = plan
        values = f"{name} {plan.as_kwargs()}"  # without the reasons, which hold free memory and so differ each time
        if values not in self._logged:
            self._logged.add(values)
            log_plan(name, plan)

    def _check_arguments(self) -> None:
        check_int("batch_size", self.batch_size, 1)
        check_int("eval_batch_size", self.eval_batch_size, 1, allow=(None,))
        for name in ("shuffle", "drop_last", "deterministic", "eval_repeats"):
            check_bool(name, getattr(self, name))
        check_seed(self.seed)
        check_int("split_seed", self.split_seed, 0)
        for name in ("val", "test"):
            share = getattr(self, f"{name}_split")
            if share and getattr(self, f"{name}_dataset") is not None:
                raise FastDataError(
                    f"{name}_split={share!r} together with a {name}_dataset.",
                    expected="one of the two.",
                    fix=f"leave out {name}_split, or the dataset.",
                )
        LoaderOptions(**{name: getattr(self, name) for name in FIELDS if hasattr(self, name)})
        check_shares(self.val_split, self.test_split)
        check_loader_kwargs(self.dataloader_kwargs or {})


def _other(split: Split) -> Split:
    """The split whose workers live beside those of this one."""
    return "val" if split == "train" else "train"
