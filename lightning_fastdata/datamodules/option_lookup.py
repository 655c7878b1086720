"""Where the value of an option comes from: dataset slots and constructor arguments are read here, and only here.

In this order: what the instance holds (an argument of our constructor, or an assignment before or after it), what a
class of the user's defines, ``hparams``, our default. Our constructor assigns what it was given and nothing else, so
that Python's own lookup of attributes gives the same.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from lightning_fastdata.compat.rank_zero import log_rank_zero
from lightning_fastdata.datamodules.dataset_collections import to_builtin
from lightning_fastdata.errors import FastDataError
from lightning_fastdata.planning.options import LoaderPlan

__all__ = [
    "UNREAD",
    "Option",
    "State",
    "assign",
    "is_packaged",
    "keep_given",
    "known_options",
    "option",
    "own_method",
    "peek",
    "state_of",
    "takes",
]

PACKAGES = ("lightning_fastdata", "lightning", "pytorch_lightning")
"""Top-level packages whose classes say nothing of what the user wants."""
FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType)
MISSING = inspect.Parameter.empty
UNREAD = object()
"""What ``peek`` gives where the value is known only by running code of the user's."""


class Option:
    """An option as an attribute of our classes, for what neither the instance nor a subclass has.

    No data descriptor: an assignment, a class attribute, a method or a property of the user's goes before it.

    Args:
        default: The value where nothing was said. "auto" there makes "auto" the word for "not given", else None is.
        computed: Gives that default instead, from the DataModule and what reads its options: ``option`` or ``peek``.
        arguments: Positional arguments of an option that is a function (count). A method of the name of any other
            option is no value of it.
        kinds: Types that a value has; what is of another type is a name of the user's own.
        saved: Whether ``hparams`` may hold it.
    """

    def __init__(
        self,
        default: Any = None,
        *,
        computed: Callable[[Any, Callable[[Any, str], Any]], Any] | None = None,
        arguments: int = 0,
        kinds: tuple[type, ...] = (object,),
        saved: bool = True,
    ) -> None:
        self.default, self.computed = default, computed
        self.arguments, self.kinds, self.saved = arguments, kinds, saved
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        if module is None:  # a dataclass takes what its class gives here for the default of its own field
            raise AttributeError(self.name)
        own = _own_attribute(type(module), self.name)  # of a base behind ours
        return self.unsaid(module, option) if own is MISSING else _bound(own, module)

    def is_neutral(self, value: Any) -> bool:
        """Whether a value says nothing: what LightningCLI passes back where the user wrote nothing."""
        return value is None if self.default != "auto" else isinstance(value, str) and value == "auto"

    def counts(self, value: Any) -> bool:
        """Whether a value can be one of this option; the user may use its name for something else."""
        if isinstance(value, FUNCTIONS):
            return self.arguments > 0 or self.name.endswith("_dataset")  # which is refused, with words
        return value is None or isinstance(value, self.kinds)

    def unsaid(self, module: Any, read: Callable[[Any, str], Any]) -> Any:
        """The value where neither the instance nor a class of the user's has one; ``read`` gives other options."""
        hparams = getattr(module, "hparams", None) if self.saved else None
        value = to_builtin(hparams.get(self.name)) if isinstance(hparams, Mapping) else None
        # A name or a path of data in ``hparams`` is what the user's code makes a dataset of.
        named = self.name.endswith("_dataset") and isinstance(value, (str, PathLike))
        if not (value is None or self.is_neutral(value) or named) and self.counts(value):
            return value
        return self.default if self.computed is None else self.computed(module, read)


@dataclass
class State:
    """What a DataModule keeps for itself."""

    plans: dict[str, LoaderPlan] = field(default_factory=dict)
    """The plan of each loader made so far."""
    placements: dict[str, str] = field(default_factory=dict)
    """Where the arrays of each loader are, and why, where they may lie on a device."""
    logged: set[str] = field(default_factory=set)
    """What was logged once and need not be again."""
    given: set[str] = field(default_factory=set)
    """Names of the arguments that our constructor was given."""
    made: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """What the user gave for a split, and the dataset that was made of it."""


def state_of(module: Any) -> State:
    """What a DataModule keeps for itself, made at its first use: ``super().__init__()`` may not have been called."""
    state: State = vars(module).setdefault("_fastdata", State())
    return state


def option(module: Any, name: str) -> Any:
    """The value of an option, now; a property of the user's runs.

    Args:
        module: The DataModule.
        name: The option.

    Raises:
        FastDataError: Two values of the user's that differ, or a method that cannot be this option.
    """
    spec, own = _spec(type(module), name), _own_attribute(type(module), name)
    given = vars(module).get(name, MISSING)
    value = (
        given if own is MISSING or (given is not MISSING and not inspect.isdatadescriptor(own)) else _bound(own, module)
    )
    if given is not MISSING and not _same(given, value):
        _refuse(module, name, given, f"its property {name} gives {_shown(value)}")
    if value is MISSING or not spec.counts(value):
        value = spec.unsaid(module, option)
    arguments = spec.arguments
    if arguments and isinstance(value, FUNCTIONS) and not takes(value, *range(arguments)):
        raise FastDataError(
            f"{type(module).__name__}.{name}{inspect.signature(value)}.",
            expected=f"a function that is called with {arguments} argument{'s' * (arguments > 1)}.",
            fix=f"if it gives such a function, write @property above it; if it is a helper of yours, rename it: {name} "
            "is an option of this class.",
        )
    return value


def peek(module: Any, name: str) -> Any:
    """The value of an option where it is known without running code of the user's, else ``UNREAD``.

    Args:
        module: The DataModule.
        name: The option.
    """
    spec, own = _spec(type(module), name), _own_attribute(type(module), name)
    if inspect.isdatadescriptor(own):
        return UNREAD
    if name in vars(module):
        value = vars(module)[name]
    elif isinstance(own, (*FUNCTIONS, staticmethod, classmethod)) or not hasattr(type(own), "__get__"):
        value = _bound(own, module)
    else:
        return UNREAD
    return value if value is not MISSING and spec.counts(value) else spec.unsaid(module, peek)


def known_options(module: Any, names: Iterable[str]) -> dict[str, Any]:
    """The options that are known without running code of the user's, the others as None.

    Args:
        module: The DataModule.
        names: The options.
    """
    return {name: None if (value := peek(module, name)) is UNREAD else value for name in names}


def keep_given(module: Any, arguments: Mapping[str, Any]) -> None:
    """Assign the arguments of a constructor that say something.

    Args:
        module: The DataModule.
        arguments: The names of the constructor; what is no option is passed over.

    Raises:
        FastDataError: The instance had another value before.
    """
    options = {name: _find(type(module), name) for name in arguments}
    for name, spec in options.items():
        value = to_builtin(arguments[name])
        if spec is None or spec.is_neutral(value):
            continue
        held, given = vars(module).get(name), state_of(module).given
        if held is not None and name not in given and not spec.is_neutral(held) and not _same(held, value):
            _refuse(module, name, value, f"self.{name} was {_shown(held)} before")
        given.add(name)
        assign(module, name, value)


def assign(module: Any, name: str, value: Any) -> None:
    """Set an option, also beside a property that cannot be set: where the two differ, reading it is an error."""
    own = _own_attribute(type(module), name)
    if isinstance(own, property) and own.fset is None:
        vars(module)[name] = value
    else:
        setattr(module, name, value)


def own_method(module: Any, name: str, /, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """The method to call where users may override one of ours: theirs, if it takes what ours does.

    Args:
        module: The DataModule.
        name: The method.
        *args: What it will be called with.
        **kwargs: Likewise.

    Returns:
        The most derived method whose first argument is ``split`` and that takes the others. What else has the name is
        a helper or a result of the user's.
    """
    for holder in (module, *type(module).__mro__):
        function = vars(holder).get(name)
        if not (isinstance(function, FunctionType) or (holder is module and callable(function))):
            continue
        method: Callable[..., Any] = function if holder is module else function.__get__(module)
        first = _first_parameter(method)
        if holder is not module and is_packaged(holder):
            return method
        if (first == "split" or first.startswith("*")) and takes(method, *args, **kwargs):
            return method
        text = f"{type(module).__name__}.{name}{inspect.signature(method)} is taken for a helper of yours"
        if text not in (logged := state_of(module).logged):
            logged.add(text)
            log_rank_zero(f"{text}: FastDataModule's own has other arguments.")
    raise AttributeError(name)


def takes(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> bool:
    """Whether a function can be called with these arguments; True where that is not known."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a builtin
        return True
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def is_packaged(cls: type) -> bool:
    """Whether a class is this package's or Lightning's, and so says nothing of what the user wants."""
    return cls.__module__.partition(".")[0] in PACKAGES


def _own_attribute(cls: type, name: str) -> Any:
    """What a class of the user's has under a name, before any binding; ``MISSING`` if none has it."""
    owners = (base for base in cls.__mro__ if not is_packaged(base) and name in vars(base))
    return next((vars(base)[name] for base in owners), MISSING)


def _first_parameter(function: Callable[..., Any]) -> str:
    return next((str(each).partition(":")[0] for each in inspect.signature(function).parameters.values()), "")


def _bound(attribute: Any, module: Any) -> Any:
    """An attribute of a class as its instance has it; but a function of elsewhere is not made a method."""
    if inspect.isfunction(attribute):
        first = _first_parameter(attribute)
        if first != "self" and not first.startswith("*"):
            return attribute
    return attribute.__get__(module, type(module)) if hasattr(type(attribute), "__get__") else attribute


def _find(cls: type, name: str) -> Option | None:
    found = (vars(base).get(name) for base in cls.__mro__)
    return next((each for each in found if isinstance(each, Option)), None)


def _spec(cls: type, name: str) -> Option:
    spec = _find(cls, name)
    assert spec is not None, name
    return spec


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # tensors and arrays, which compare element by element
        return False


def _shown(value: Any) -> str:
    plain = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if plain else type(value).__name__


def _refuse(module: Any, name: str, given: Any, other: str) -> None:
    raise FastDataError(
        f"{type(module).__name__}: {name}={_shown(given)} was passed to super().__init__, but {other}.",
        expected="one value: both were written by you.",
        fix=f"leave out {name} in one of the two places.",
    )
