"""The site that `make docs` builds out of the Markdown pages and the docstrings.

The source folder is the repository itself, so that a relative link means the same on a code host and on the site.
"""

from typing import Any

from lightning_fastdata import __version__

project = "lightning_fastdata"
author = "The lightning_fastdata authors"
copyright = "The lightning_fastdata authors, Apache-2.0"  # noqa: A001 (Sphinx's name)
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "benchmarks/README.md", "docs/*.md"]
exclude_patterns = [
    ".*",
    "**/.*",
    "**/_build",
    "**/__pycache__",
    "lightning_fastdata",
    "tests",
    "runs",
    "dist",
    "build",
]

# Markdown: every heading can be linked to, as on a code host.
myst_heading_anchors = 3
myst_linkify_fuzzy_links = False

# Docstrings: Google style; the string below a field is its description; types stand beside the arguments.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as written: a constant's name says more than its value
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# There is no network when this is built, so names of other projects lead nowhere. Ours must lead somewhere.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|lightning|torchvision|numpy|PIL|multiprocessing)\..*"),
    (r"py:.*", r"(collections|os|pathlib|typing)\..*|(Any|Callable|Mapping|Sequence|Iterable|Iterator|Path|PathLike)"),
    (r"py:.*", r"DataLoader|Dataset|Image|lightning_fastdata\.(sharding\.T|data\.base\.M|.*Mixin)"),
]

html_theme = "furo"
html_title = f"lightning_fastdata {__version__}"
html_extra_path = ["_root"]  # the index.html that leads to docs/index.html
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
highlight_language = "none"  # a block that names no language is what a terminal shows
toc_object_entries_show_parents = "hide"


def setup(app: Any) -> None:
    """Sphinx calls this."""
    descriptions: dict[str, list[str]] = {}

    def keep(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        descriptions[name] = list(lines)

    def restore(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        if what in ("attribute", "data", "property"):
            lines[:] = descriptions[name]

    def hide_mixins(app: Any, name: str, obj: Any, options: Any, bases: list[type]) -> None:
        bases[:] = [base for base in bases if not base.__name__.endswith("Mixin")]

    # Napoleon, which comes at 500, takes what stands before a colon in a field's description for the field's type.
    app.connect("autodoc-process-docstring", keep, priority=100)
    app.connect("autodoc-process-docstring", restore, priority=900)
    app.connect("autodoc-process-bases", hide_mixins)
