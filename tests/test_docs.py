"""The documentation: the site builds without a warning, its snippets run, its picture shows what is said of it."""

import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import programs
import pytest

import lightning_fastdata
from lightning_fastdata.report.glossary import TERMS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("benchmarks/*.md")]
RUNNABLE = ("subclassing.md", "faq.md", "arrays.md")
BEFORE_THE_QUESTIONS = """
from torch.utils.data import IterableDataset
from lightning_fastdata import *
dataset = Squares(64)
"""
"""What the snippets of faq.md take for granted."""


def text_of(page):
    return page.read_text(encoding="utf-8")


def snippets(name):
    found = re.findall(r"^```python\n(.*?)^```", text_of(DOCS / name), re.DOTALL | re.MULTILINE)
    assert found
    return found


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs sphinx, which .[dev] installs")
def test_the_site_builds_without_warnings(tmp_path):
    """Every reference leads somewhere; fields come with their descriptions; relative links of README work there."""
    done = subprocess.run(
        [*(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"), "-c", DOCS, ROOT, tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    api = text_of(tmp_path / "docs" / "api.html")
    for name in lightning_fastdata.__all__:
        assert f'id="lightning_fastdata.{name}"' in api, name
    assert "environ({" not in api  # the variables of whoever builds it
    assert "Data wait: time of the training process" in api  # StepRecord.wait_s
    assert "Files that this process may have open" in api  # Hardware.open_file_limit
    assert 'href="docs/subclassing.html"' in text_of(tmp_path / "README.html")
    assert "docs/index.html" in text_of(tmp_path / "index.html")


def test_the_api_page_has_every_public_name():
    """A name that is added to the package is added to the page."""
    directives = re.findall(
        r"^\.\. auto(?:class|function):: lightning_fastdata\.(\w+)$", text_of(DOCS / "api.md"), re.M
    )
    assert sorted(directives) == sorted(lightning_fastdata.__all__)


def test_every_page_is_in_the_contents():
    """A page that is added to docs/ can be found."""
    listed = re.findall(r"^(?:[A-Z][\w ]* <)?([\w./]+)>?$", text_of(DOCS / "index.md"), re.MULTILINE)
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or page.stem in listed, page.name


def test_the_glossary_says_what_the_reports_say():
    """A term of a report has the same meaning on the page; the page has more of them, and no more than one screen."""
    text = text_of(DOCS / "glossary.md")
    rows = dict(re.findall(r"^\| ([\w -]+) \| (.*) \|$", text, re.MULTILINE))
    assert {term: rows.get(term) for term in TERMS} == TERMS
    assert text.count("\n") <= 45
    assert "(docs/glossary.md)" in text_of(ROOT / "README.md")


def anchor_of(heading):
    """The anchor that code hosts and MyST make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_links_to_headings_lead_to_one():
    """`page.md#heading` names a heading of that page; the files are the business of test_readme.py."""
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", text_of(page)):
            goal = page if not target else (page.parent / target).resolve()
            headings = re.findall(r"^#+ (.*)$", text_of(goal), re.MULTILINE)
            assert anchor in [anchor_of(heading) for heading in headings], f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("name", RUNNABLE)
def test_snippets_are_python(name):
    """Each compiles on its own."""
    for number, snippet in enumerate(snippets(name)):
        compile(snippet, f"{name}, snippet {number}", "exec")


@pytest.mark.slow
def test_snippets_run_one_after_the_other(tmp_path):
    """The snippets of subclassing.md as they stand, then those of faq.md and of arrays.md, in one process."""
    script = tmp_path / "snippets.py"
    parts = [*snippets("subclassing.md"), BEFORE_THE_QUESTIONS, *snippets("faq.md"), *snippets("arrays.md")]
    script.write_text("\n".join(parts), encoding="utf-8")
    done = programs.run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_picture_shows_what_is_said_of_it():
    """The figures of README's alternative text are in the recorded terminal, which is small and fetches nothing."""
    alternative, path = re.search(r"!\[(.*?)\]\((.*?)\)", text_of(ROOT / "README.md"), re.DOTALL).groups()
    svg = text_of(ROOT / path)
    shown = "\n".join(node.text or "" for node in ET.fromstring(svg).iter() if node.tag.endswith("text"))
    figures = re.findall(r"\d+\.\d+", alternative)
    assert figures
    assert [figure for figure in figures if figure not in shown] == []
    assert len(svg) < 60_000
    assert set(re.findall(r"https?://[^\"'\s)]+", svg)) <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
    assert "url(http" not in svg
