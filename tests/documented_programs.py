"""What a documented command starts, below its launchers: a program of ours with its arguments, or a tool of others'."""

import argparse
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import pytest
from markdown_pages import ROOT
from shell_commands import ELLIPSIS

SHELL = {"source", "cat", "cd", "ls", "tail", "head", "git", "open", "tar", "mkdir"}
"""Need no check of ours."""
PRETRAIN = "train/pretrain.py"


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program of this project."""

    name: str
    """A module, or a script's path."""
    arguments: tuple[str, ...]
    is_alone: bool = True
    """One process on this machine: no launcher of several, no container, no scheduler."""


class UnknownCommandError(Exception):
    """A documented command that nothing is known of, or that names what is not there."""


def program_of(words: Sequence[str]) -> Program | None:
    """Ours, or None for a command whose files and options were found to be there.

    Raises:
        UnknownCommandError: it names what is not there.
    """
    head, rest = words[0].removeprefix(".venv/bin/"), list(words[1:])
    if head in ("sudo", "exec"):
        return program_of(rest)
    if head == "python":
        is_module = rest[0] == "-m"
        return Program(name=rest[1] if is_module else rest[0], arguments=tuple(rest[2 if is_module else 1 :]))
    if head in ("accelerate", "torchrun"):
        return _launched(head, rest)
    if head == "srun":
        inner = shlex.split(rest[rest.index("-c") + 1])
        return _several(program_of([word for word in inner if word not in ELLIPSIS]))
    if head == "sbatch":
        return _batch(rest)
    if head == "docker" and rest[0] == "run":
        start = next(i for i, word in enumerate(rest) if word in ("python", "torchrun"))
        return _several(program_of(rest[start:]))
    _check_tool(head, rest)
    return None


def check_arguments(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the program's own `main` parse them, and nothing more.

    Raises:
        SystemExit: they are refused; the reason is on stderr.
        UnknownCommandError: there is no such program.
    """
    name, arguments = program.name.removesuffix(".py").replace("/", "."), list(program.arguments)
    if name == "ops.bench":
        name, arguments = f"ops.bench.{arguments[0]}", arguments[1:]
    elif (ROOT / name.replace(".", "/")).is_dir():
        name = f"{name}.__main__"
    module = _imported(name)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        for changes_the_process in ("share_cores", "stop_with_launcher", "StopRequest"):
            if hasattr(module, changes_the_process):
                patch.setattr(module, changes_the_process, lambda: None)
        if hasattr(module, "parse"):
            patch.setattr(module, "parse", _then_stop(module.parse))
        else:
            patch.setattr(argparse.ArgumentParser, "parse_args", _then_stop(argparse.ArgumentParser.parse_args))
        takes_arguments = any(
            parameter.default is parameter.empty for parameter in inspect.signature(module.main).parameters.values()
        )
        with pytest.raises(_ParsedError):
            module.main(arguments) if takes_arguments else module.main()
    if name == "eval.ablate" and "--" in arguments:
        trained = tuple(arguments[arguments.index("--") + 1 :])
        check_arguments(Program(name=PRETRAIN, arguments=trained), monkeypatch)


def _imported(name: str) -> Any:
    if name.startswith("examples."):  # in no package
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{name.replace('.', '/')}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Grafana's SDK
            return importlib.import_module(name)
    except ModuleNotFoundError:
        raise UnknownCommandError(f"no module {name}") from None


class _ParsedError(BaseException):
    """Raised once the arguments were accepted; nobody's `except` catches it."""


def _then_stop(parse: Any) -> Any:
    def parse_and_stop(*arguments: Any, **named: Any) -> NoReturn:
        parse(*arguments, **named)
        raise _ParsedError

    return parse_and_stop


def _launched(launcher: str, words: list[str]) -> Program:
    """By the launcher's own parser."""
    if launcher == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(words)
        is_alone = False
    else:
        from accelerate.commands.launch import launch_command_parser

        if words[0] != "launch":
            raise UnknownCommandError(f"accelerate {words[0]}")
        options = launch_command_parser().parse_args(words[1:])
        is_alone = not options.multi_gpu
    return Program(name=options.training_script, arguments=tuple(options.training_script_args), is_alone=is_alone)


def _batch(words: list[str]) -> Program:
    place = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
    options, file, arguments = words[:place], words[place], words[place + 1 :]
    _require_file(file)
    if not all(option.startswith("--") for option in options):
        raise UnknownCommandError(f"sbatch {' '.join(options)}")
    if file.endswith("study.sbatch"):
        return Program(name="eval.ablate", arguments=tuple(arguments), is_alone=False)
    if file.endswith("array.sbatch"):
        arguments = arguments[2:]  # the list of runs, and where they go
    return Program(name=PRETRAIN, arguments=tuple(arguments), is_alone=False)


def _several(program: Program | None) -> Program | None:
    return None if program is None else Program(name=program.name, arguments=program.arguments, is_alone=False)


def _check_tool(head: str, rest: list[str]) -> None:
    if head == "make":
        targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
        if unknown := [word for word in rest if word not in targets and "=" not in word]:
            raise UnknownCommandError(f"make {unknown[0]}: not in the Makefile")
    elif head.rpartition("/")[2] == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extras in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
            if missing := set(extras.split(",")) - set(project["optional-dependencies"]):
                raise UnknownCommandError(f"pip install: no extra {missing.pop()}")
    elif head == "docker" and rest[0] in ("compose", "build"):
        _require_file("Dockerfile")
        for file in [after for word, after in pairwise(rest) if word == "--file"]:
            _require_file(file)
    elif head == "python3" and rest[:2] == ["-m", "venv"]:
        pass
    elif head == "kubectl" and rest[0] in ("apply", "logs"):
        for folder in [after for word, after in pairwise(rest) if word == "-k"]:
            _require_file(f"{folder}/kustomization.yaml")
    elif head == "prometheus":
        for word in rest:
            _require_file(word.partition("=")[2])
    elif "/" in head:
        _require_file(head)
    elif head not in SHELL:
        raise UnknownCommandError(f"{head}: nothing is known of this command")


def _require_file(name: str) -> None:
    if not (ROOT / name).is_file():
        raise UnknownCommandError(f"{name}: no such file")
