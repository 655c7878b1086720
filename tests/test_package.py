"""What is installed from a built package is whole: it imports, knows the machine, and trains the README's program."""

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def run(*command, cwd, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as it would be uploaded."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT),
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a new environment that holds the package, and sees only the libraries of this one.

    Those take gigabytes. They are put on its path; the package itself comes from the wheel, not from this checkout.
    """
    folder = tmp_path_factory.mktemp("environment")
    made = run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    assert made.returncode == 0, made.stderr
    interpreter = folder / "bin" / "python"
    done = run(
        *(sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-deps", "--no-index", wheel),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return interpreter


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    """Every module, the typing marker and the license; no tests, no examples, no cache."""
    names = zipfile.ZipFile(wheel).namelist()
    package, kinds = ROOT / "lightning_fastdata", (".py", ".html", ".css", ".js")
    sources = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.suffix in kinds}
    inside = {name for name in names if name.startswith("lightning_fastdata/")}
    assert inside == sources | {"lightning_fastdata/py.typed"}
    others = {name for name in names if name not in inside}
    assert all(re.match(r"lightning_fastdata-[^/]*\.dist-info/", name) for name in others)
    assert any(name.endswith("licenses/LICENSE") for name in others)


def test_it_is_the_installed_package_that_is_imported(python, tmp_path):
    """Otherwise the other tests of this page would test this checkout."""
    done = run(python, "-c", "import lightning_fastdata as p; print(p.__file__)", cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(python.parent.parent), done.stdout + done.stderr


def test_the_doctor_of_the_installed_package(python, tmp_path):
    """Its command is there and knows the CPUs."""
    done = run(python.parent / "lightning-fastdata", "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CPU" in done.stdout


def test_the_readme_program_trains_with_the_installed_package(python, tmp_path):
    """Copied from the page."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "__main__" in block)
    (tmp_path / "quick_start.py").write_text(program, encoding="utf-8")
    done = run(python, "quick_start.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run.jsonl").exists()
