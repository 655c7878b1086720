"""The logic of the DataModule meant to be subclassed; `lightning/` and `pytorch_lightning/` put it on a base class."""

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from torch.utils.data import DataLoader

from lightning_fastdata.datamodules.dataset_collections import COLLECTIONS, as_given, check_members, flattened
from lightning_fastdata.datamodules.plain import to_builtin
from lightning_fastdata.datamodules.splits import check_shares, split_dataset
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.loaders.build import LoaderRequest, check_kwargs
from lightning_fastdata.loaders.dataset_traits import traits_of
from lightning_fastdata.loaders.factory import SPLITS, log_plan, log_rank_zero, make_loader, resolve_seed
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

Auto = Literal["auto"]
M = TypeVar("M", bound="FastDataModuleMixin")
TRAINING_ONLY = ("sampler", "batch_sampler", "shuffle", "drop_last")
"""Loader arguments that apply to training alone when dataloader_kwargs are not written per split."""


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
    reason; it is told once, on rank 0.

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
        shuffle: Shuffle training data; left aside for a sampler of your own or an IterableDataset.
        val_split: Part of the training data to validate on when there is no ``val_dataset``: a share in [0, 1) as a
            float, or a number of samples as an int.
        test_split: The same for testing.
        seed: Decides the order of training and the random numbers of every sample; None follows ``seed_everything``,
            else 42.
        split_seed: Decides, alone, which samples ``val_split`` and ``test_split`` hold out.
        deterministic: Seed Python's, NumPy's and torch's generators for every sample, so that batches do not depend on
            workers, ranks or restarts; False saves some microseconds per sample.
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
        collate_fn: Callable[[list[Any]], Any] | None = None,
        dataloader_kwargs: dict[str, Any] | None = None,
    ) -> None:
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
        self.collate_fn = collate_fn
        self.dataloader_kwargs = to_builtin(dataloader_kwargs)
        self.plans: dict[str, LoaderPlan] = {}
        self._told: set[str] = set()
        self._check_arguments()

    @classmethod
    def from_datasets(  # Lightning's own would build its loaders past the plan
        cls: type[M],
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int | None = None,
        num_workers: int | Auto | None = None,
        **datamodule_kwargs: Any,
    ) -> M:
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
            if given.get("sampler") is None:
                own["shuffle"] = self.shuffle and split == "train"
        request = LoaderRequest(
            dataset,
            split,
            {**own, **given},
            label=f"{type(self).__name__} {name}",
            name=None if name == split else name,
            seed=resolve_seed(self.seed),
            deterministic=self.deterministic,
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
        found = self.datasets(split)
        if found is None:
            return []
        if isinstance(found, DataLoader):
            raise FastDataError(
                f"{split}_dataset is a DataLoader.",
                expected="a dataset: the loaders are made here.",
                fix="pass the loader's dataset, and its arguments as batch_size, dataloader_kwargs, ...",
            )
        if isinstance(found, (str, bytes)):  # has a length and elements, and would train on its letters
            raise FastDataError(
                f"{split}_dataset={found!r}.",
                expected="a dataset, or a list or dict of them.",
                fix="for a folder of images there is ImageFolderDataModule; in YAML, name the dataset as class_path"
                " (LightningCLI) or _target_ (Hydra), with its arguments below.",
            )
        if not isinstance(found, COLLECTIONS):
            return self.make_dataloader(split, found)
        check_members(split, found)
        return self._collection(split, found, split, len(flattened(found)))

    def _collection(self, split: Split, found: Any, name: str, loaders: int) -> Any:
        """Loaders in the structure of their datasets, which may be nested: Lightning gives batches in the same one."""
        if isinstance(found, Mapping):
            return {key: self._collection(split, part, f"{name}/{key}", loaders) for key, part in found.items()}
        if isinstance(found, (list, tuple)):
            return [self._collection(split, part, f"{name}/{index}", loaders) for index, part in enumerate(found)]
        return self.make_dataloader(split, found, name=name, loaders=loaders)

    def _batch_size_of(self, split: Split) -> int:
        return self.batch_size if split == "train" or self.eval_batch_size is None else self.eval_batch_size

    def _kwargs_for(self, split: Split) -> dict[str, Any]:
        """Loader arguments of a split: the DataModule's collate_fn, then the user's dataloader_kwargs over it."""
        kwargs: dict[str, Any] = {} if self.collate_fn is None else {"collate_fn": self.collate_fn}
        given = self.dataloader_kwargs or {}
        if _is_per_split(given):
            return {**kwargs, **given.get(split, {})}
        # What orders or thins training data has no business in evaluation, which sees every sample once.
        meant = {key: value for key, value in given.items() if split == "train" or key not in TRAINING_ONLY}
        return {**kwargs, **meant}

    def _concurrent_pool(self, split: Split, facts: TrainerContext) -> bool:
        """Whether workers of training and validation will be alive together."""
        if not facts.fitting or not facts.validates or split not in ("train", "val"):
            return False
        other = _other(split)
        found = self._source(other)
        if found is None or self._kwargs_for(other).get("num_workers", self.num_workers) == 0:
            return False
        return not all(traits_of(member).in_memory for member in flattened(found))

    def _other_pool(self, split: Split, facts: TrainerContext) -> Pool | None:
        """The workers that live beside those of ``split``, as far as the user has decided them; else None."""
        other = _other(split)
        given = self._kwargs_for(other)
        workers = given.get("num_workers", self.num_workers)
        if not isinstance(workers, Integral) or not self._concurrent_pool(split, facts):
            return None
        batched = given.get("batch_sampler") is None
        return pool_of(
            flattened(self.datasets(other)),
            num_workers=int(workers),
            prefetch_factor=given.get("prefetch_factor", self.prefetch_factor),
            batch_size=given.get("batch_size", self._batch_size_of(other)) if batched else None,
            ranks=facts.share[1] if facts.share else 1,
            alive_together=other == "train",
        )

    def _source(self, split: Split) -> Any:
        """What a split is taken from, uncut: its own data, or that of training when a part of it is held out."""
        own = to_builtin(getattr(self, f"{split}_dataset"))
        share = {"val": self.val_split, "test": self.test_split}.get(split)
        return self.train_dataset if own is None and share else own

    def _on_plan(self, name: str, plan: LoaderPlan) -> None:
        self.plans[name] = plan
        told = f"{name} {plan.as_kwargs()}"  # without the reasons: free memory, for one, differs at every look
        if told not in self._told:
            self._told.add(told)
            log_plan(name, plan)

    def _check_arguments(self) -> None:
        for name in ("batch_size", "eval_batch_size"):
            value = getattr(self, name)
            if value is None and name == "eval_batch_size":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise FastDataError(f"{name}={value!r}.", expected="a whole number >= 1.", fix=f"pass {name}=32.")
        for name in ("shuffle", "drop_last", "deterministic"):
            if not isinstance(getattr(self, name), bool):
                raise FastDataError(
                    f"{name}={getattr(self, name)!r}.", expected="True or False.", fix=f"pass {name}=True or False."
                )
        resolve_seed(self.seed)
        if isinstance(self.split_seed, bool) or not isinstance(self.split_seed, Integral) or self.split_seed < 0:
            raise FastDataError(
                f"split_seed={self.split_seed!r}.", expected="a whole number >= 0.", fix="pass split_seed=42."
            )
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
        given = self.dataloader_kwargs or {}
        for kwargs in given.values() if isinstance(given, Mapping) and _is_per_split(given) else [given]:
            if not isinstance(kwargs, Mapping):
                raise FastDataError(
                    f"dataloader_kwargs={given!r}.",
                    expected="a dict of DataLoader arguments, or one such dict per split.",
                    fix='write {"timeout": 60} or {"train": {"timeout": 60}}.',
                )
            check_kwargs(kwargs)


def _other(split: Split) -> Split:
    """The split whose workers live beside those of this one."""
    return "val" if split == "train" else "train"


def _is_per_split(given: Mapping[str, Any]) -> bool:
    """Whether dataloader_kwargs are written per split; a mix of both forms is refused."""
    named = [key for key in given if key in SPLITS]
    if named and len(named) < len(given):
        rest = sorted(set(given) - set(named))
        raise FastDataError(
            f"dataloader_kwargs has splits ({', '.join(named)}) next to loader arguments ({', '.join(rest)}).",
            expected="either arguments for all splits, or one dict per split.",
            fix=f"move {', '.join(rest)} into the splits' dicts.",
        )
    return bool(named)
