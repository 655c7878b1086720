"""Plain containers for what Hydra hands over: OmegaConf has a list and a dict of its own."""

import sys
from typing import Any

__all__ = ["to_builtin"]


def to_builtin(value: Any) -> Any:
    """Make plain lists and dicts of OmegaConf's, which ``hydra.utils.instantiate`` passes on unless told otherwise.

    OmegaConf's list is no ``list``, so a list of datasets would be taken for one dataset; and neither container
    belongs into a checkpoint, or into a worker that need not have OmegaConf.

    Args:
        value: Anything. Dicts are looked through, for a part of a configuration within (``{"train": cfg.loader}``);
            other containers are handed back as they are.

    Returns:
        The same without containers of OmegaConf; the objects in them are the same objects.
    """
    omegaconf = sys.modules.get("omegaconf")  # never imported here: without it there is nothing to convert
    if omegaconf is None:
        return value
    if omegaconf.OmegaConf.is_config(value):
        return omegaconf.OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
    if type(value) is not dict:
        return value
    plain = {key: to_builtin(part) for key, part in value.items()}
    return plain if any(plain[key] is not part for key, part in value.items()) else value
