"""Runs programs one after another, each in a process forked from one that has imported the heavy libraries already.

A program then starts in milliseconds instead of seconds, and is a process of its own all the same.
"""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_LIBRARIES = ("torch", "torchvision", "kornia", "timm", "accelerate", "PIL.Image", "prometheus_client", "jsonargparse")


class ForkedPrograms:
    """The process that forks. Close it at the end."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._forker = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def run(
        self, program: str, arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
    ) -> tuple[int, str]:
        """Run a module, or a script by its path in the directory; returns exit status and what it printed."""
        task = {"program": program, "arguments": list(arguments), "directory": str(directory)}
        assert self._forker.stdin
        assert self._forker.stdout
        print(json.dumps(task | {"environment": dict(environment)}), file=self._forker.stdin, flush=True)
        status = int(self._forker.stdout.readline())
        return status, (directory / "printed").read_bytes().decode(errors="replace")

    def close(self) -> None:
        assert self._forker.stdin
        assert self._forker.stdout
        self._forker.stdin.close()
        self._forker.wait(timeout=60)
        self._forker.stdout.close()


def _serve() -> None:
    for library in _LIBRARIES:
        import_module(library)
    gc.freeze()  # or the first collection in a child would touch, and so copy, all of it
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(task)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _become(task: dict[str, Any]) -> None:
    """In the child: run the program and exit as it does."""
    os.chdir(task["directory"])
    os.environ.update(task["environment"])
    printed = os.open("printed", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(printed, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    program = task["program"]
    sys.argv = [program, *task["arguments"]]
    status: Any = 0
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)  # libraries that are unloaded one by one take a second


if __name__ == "__main__":
    _serve()
