"""Command line and YAML file -> a frozen dataclass; every fault in one line, before torch is imported.

python train/pretrain.py --config FILE --optimizer.base_lr=0.5      the file first, then the flags
"""

import argparse
import difflib
import functools
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from train.errors import RunError

Config = TypeVar("Config")


def parse(config_class: type[Config], arguments: Sequence[str], prog: str | None = None) -> Config:
    """Parse and validate; prints and exits for `--help` and `--print_config`.

    Raises:
        RunError: a field is unknown, or its value is of the wrong type or out of range, or the file cannot be read.
    """
    parser = _parser(config_class, prog)  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
    arguments = _with_true(arguments, parser)
    source = ""
    try:
        for source in _config_files(arguments):  # alone first, so that a fault in a file is told with its name
            with suppress(OSError, yaml.YAMLError):  # the parser says what is wrong
                _refuse_classes(yaml.safe_load(Path(source).read_text()))
            parser.parse_path(source)
        source = ""
        fields = vars(parser.instantiate(parser.parse_args(list(arguments))))
        return config_class(**{name: value for name, value in fields.items() if name != "config"})
    except (argparse.ArgumentError, ValueError, TypeError, OSError) as error:
        raise RunError(f"{source}{': ' if source else ''}{_one_line(str(error), parser)}") from None


def to_yaml(config: Any) -> str:
    """The whole configuration, as a file that `--config` accepts."""
    plain = json.loads(json.dumps(asdict(config)))  # the parser's numbers are subclasses, which YAML would refuse
    return yaml.safe_dump(plain, sort_keys=False)


@functools.cache  # making one takes longer than using it, and a study parses a configuration for each of its cells
def _parser(config_class: type[Any], prog: str | None) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # help comes from the strings under the fields
    parser = ArgumentParser(prog=prog, exit_on_error=False, default_env=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below.")
    parser.add_class_arguments(config_class, nested_key=None)
    return parser


def _refuse_classes(value: Any) -> None:
    """A file may come with somebody else's run: the parser would import any module that a `class_path` in it names.

    Raises:
        ValueError: it has one, also within a text that the parser would read as YAML.
    """
    if isinstance(value, dict):
        if any("class_path" in str(key).split(".") for key in value):
            raise ValueError("class_path: no field takes a class; remove it")
        for part in value.values():
            _refuse_classes(part)
    elif isinstance(value, list):
        for part in value:
            _refuse_classes(part)
    elif isinstance(value, str):
        with suppress(yaml.YAMLError):
            inner = yaml.safe_load(value)
            if not isinstance(inner, str):
                _refuse_classes(inner)


def _with_true(arguments: Sequence[str], parser: ArgumentParser) -> list[str]:
    """A flag of a yes-or-no field that no value follows says yes."""
    yes_or_no = {
        f"--{name}" for name, value in vars(parser.get_defaults().as_flat()).items() if isinstance(value, bool)
    }
    following = [*arguments, "--"][1:]
    return [
        f"{word}=true" if word in yes_or_no and after.startswith("--") else word
        for word, after in zip(arguments, following, strict=True)
    ]


def _config_files(arguments: Sequence[str]) -> list[str]:
    following = [after for flag, after in pairwise(arguments) if flag == "--config"]
    return following + [flag.partition("=")[2] for flag in arguments if flag.startswith("--config=")]


def _one_line(message: str, parser: ArgumentParser) -> str:
    """The parser's message without its line breaks and jargon, with the nearest field where one was misspelt."""
    text = " ".join(message.split())
    text = re.sub(r'Parser key "([\w.]+)":', r"\1:", text)
    text = re.sub(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", r"\2 is not one of \1", text)
    text = re.sub(r"Not of type (\w+): (.*)", r"\2 (\1 is wanted)", text)
    text = re.sub(r"does not conform to restriction v(\S+)", r"must be \1", text)
    text = re.sub(r"Group '([\w.]+)' does not accept option '([\w.]+)'", r"\1.\2: no such field", text)
    text = re.sub(r"Option '([\w.]+)' is not accepted", r"\1: no such field", text)
    text = re.sub(r"Unexpected config: .*", "not a mapping of fields to values", text)
    text = re.sub(r"unrecognized arguments: (?:--)?([\w.]*)(.*)", r"\1: no such field (in \1\2)", text)
    unknown = re.match(r"([\w.]+): no such field", text)
    if unknown:
        fields = [action.dest for action in parser._actions]
        near = difflib.get_close_matches(unknown[1], fields, n=1) or [
            field for field in fields if field.rpartition(".")[2] == unknown[1].rpartition(".")[2]
        ]
        text += f"; did you mean {near[0]}?" if near else "; --help lists all"
    return text
