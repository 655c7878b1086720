"""Programs in processes of their own, without the seconds that importing torch and Lightning takes.

``multiprocessing``'s fork server has imported both (see conftest.py) and is forked for each program. Use ``subprocess``
where what a program imports, or how it is started, is the point of its test.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
from multiprocessing.forkserver import _forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")


def _main(command: list[str], cwd: str, environment: dict[str, str], out: str, err: str, server: Any) -> None:
    """In the forked process: what ``python <command>`` does."""
    # Ranks and workers of the program that are to come from a fork server come from the same one. Python would start
    # another, which knows of no modules to import, and fails in a process that is forked after that.
    vars(_forkserver).update(server, ensure_running=lambda: None)
    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = command
    sys.path.insert(0, os.path.dirname(command[0]))
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


class Program:
    """A started program; ``out`` and ``err`` are the files that it prints into.

    Args:
        *command: Path of a program and its arguments.
        cwd: Folder that it runs in.
        **variables: Environment variables beside those of this process, of which ``PL_GLOBAL_SEED`` is left out.
    """

    def __init__(self, *command: object, cwd: Path | str = ".", **variables: str) -> None:
        self.command = [os.path.abspath(str(command[0])), *map(str, command[1:])]
        folder = Path(tempfile.mkdtemp())
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        environment = {name: value for name, value in os.environ.items() if name != "PL_GLOBAL_SEED"} | variables
        _forkserver.ensure_running()
        server = {name: value for name, value in vars(_forkserver).items() if name.endswith(("_address", "_authkey"))}
        arguments = (self.command, os.path.abspath(cwd), environment, str(self.out), str(self.err), server)
        self.process: BaseProcess = _SERVER.Process(target=_main, args=arguments)
        self.process.start()

    def wait(self, timeout_s: float = 240.0) -> CompletedProcess[str]:
        """What ``subprocess.run`` gives. A program that takes longer than ``timeout_s`` (s) is killed."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"{self.command} took more than {timeout_s} s: {self.err.read_text()}")
        return CompletedProcess(self.command, self.process.exitcode, self.out.read_text(), self.err.read_text())


def run(*command: object, cwd: Path | str = ".", **variables: str) -> CompletedProcess[str]:
    """Run ``python <command>`` to its end; see ``Program``."""
    return Program(*command, cwd=cwd, **variables).wait()
