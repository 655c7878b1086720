"""Names, signatures and defaults that users rely on, listed in `public_surface.txt`: changing one is a decision.

After a decision: ``.venv/bin/python tests/test_public_surface.py > tests/public_surface.txt``, and a line in
CHANGELOG.md.
"""

import dataclasses
import difflib
import inspect
from pathlib import Path

import lightning_fastdata
from lightning_fastdata import pytorch_lightning as other_package

LISTED = Path(__file__).parent / "public_surface.txt"
OURS = "lightning_fastdata"


def arguments(function):
    """Parameters with their defaults; hints are left out, which Python versions write differently."""
    parameters = inspect.signature(function).parameters.values()
    return str(inspect.Signature([one.replace(annotation=inspect.Parameter.empty) for one in parameters]))


def members(value):
    """Methods and properties of a class that are this package's own, not its bases' from elsewhere."""
    for name, member in sorted(inspect.getmembers(value)):
        raw = inspect.getattr_static(value, name)
        if name.startswith(("_", "on_")):  # hooks are as Lightning defines them
            continue
        if isinstance(raw, property) and raw.fget.__module__.startswith(OURS):
            yield f"{name} (property)"
        elif callable(member) and getattr(member, "__module__", "").startswith(OURS) and inspect.isroutine(member):
            yield f"{name}{arguments(member)}"


def surface(module):
    """A line for each name, and one for each of its fields and methods."""
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if dataclasses.is_dataclass(value):
            yield f"{name} (dataclass)"
            yield from (f"{name}.{field.name}" for field in dataclasses.fields(value))
        else:
            yield f"{name}{arguments(value)}"
        if inspect.isclass(value):
            yield from (f"{name}.{member}" for member in members(value))


def test_the_surface_is_the_listed_one():
    """A name, an argument or a default that changes has to be changed there too."""
    listed = LISTED.read_text(encoding="utf-8").splitlines()
    found = list(surface(lightning_fastdata))
    assert found == listed, "\n".join(difflib.unified_diff(listed, found, "listed", "found", lineterm="", n=0))


def test_both_lightning_packages_offer_the_same():
    """The surface is the same on the bases of ``pytorch_lightning``."""
    assert list(surface(other_package)) == list(surface(lightning_fastdata))


def test_a_changed_default_is_noticed():
    """The comparison can fail."""

    def changed(batch_size=64):
        """Had 32."""

    assert arguments(changed) != arguments(lambda batch_size=32: None)


if __name__ == "__main__":
    print("\n".join(surface(lightning_fastdata)))  # noqa: T201
