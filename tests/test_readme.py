"""What the README promises: its program runs, its commands exist, its links lead somewhere."""

import re
from pathlib import Path

import programs
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]


@pytest.mark.slow
def test_the_program_runs_as_copied(tmp_path):
    """The whole program of the page trains, prints the reason and the share, and leaves its run file."""
    blocks = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "__main__" in block]
    assert len(blocks) == 1
    script = tmp_path / "quick_start.py"
    script.write_text(blocks[0], encoding="utf-8")
    done = programs.run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the data is in memory" in done.stdout
    assert (tmp_path / "run.jsonl").exists()


def test_make_targets_exist():
    """Every `make TARGET` of the page is a target of the Makefile."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = set(re.findall(r"`?make ([a-z]+)`?", README))
    assert {"demo", "test"} <= named & set(targets)


def test_links_lead_somewhere():
    """Every relative link of every page is a file that exists."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_nothing_is_left_to_be_filled_in():
    """No page has a placeholder."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<!--|\bTODO\b|\bTBD\b|OWNER", text), page.name
