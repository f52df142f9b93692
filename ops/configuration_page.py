"""The reference page of all settings, made from the dataclasses that hold them.

python -m ops.configuration_page > docs/configuration.md
"""

import dataclasses
import json
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import docstring_parser
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from eval.config import EvaluateConfig
from model.config import EncoderConfig
from train.config import PretrainConfig

_INTRODUCTION = """\
# Configuration

Made by `python -m ops.configuration_page` from the dataclasses of pipelines/, model/, train/ and eval/; change those,
not this.

A field is set in a YAML file, `--config FILE`, or by a flag of its full name, `--optimizer.base_lr=0.5`, which wins
over the file. `--print_config` prints what comes out, and `--help` says on the command line what this page says. A
field that is unknown or out of range is refused in one line.
"""

_PRETRAINING = """
## Pretraining

Of `train/pretrain.py` and of whatever describes a run, such as `ops.doctor` and `ops.preview`. Defaults are the
paper's for ImageNet; `train/configs/` has files for other data. Fixed are the fields in which a run that is started
again must agree with what it began with ([running.md](running.md)).
"""

_EVALUATION = """
## Evaluation

Of `python -m eval.evaluate` ([evaluation.md](evaluation.md)).
"""

_RANGES = {
    bool: "true, false",
    int: "integer",
    float: "number",
    str: "text",
    PositiveInt: "integer > 0",
    NonNegativeInt: "integer >= 0",
    PositiveFloat: "number > 0",
    NonNegativeFloat: "number >= 0",
    ClosedUnitInterval: "number from 0 to 1",
    type(None): "null",
}


def page() -> str:
    """Markdown: a table for each dataclass, a line for each field, in the order in which they are declared."""
    fixed = set(PretrainConfig(encoder=EncoderConfig(arguments={"some": 0})).numeric())
    pretraining = "".join(_sections("Pretraining", PretrainConfig, "", fixed))
    evaluation = "".join(_sections("Evaluation", EvaluateConfig, "", None))
    return _INTRODUCTION + _PRETRAINING + pretraining + _EVALUATION + evaluation


def _sections(part: str, config_class: type[Any], prefix: str, fixed: set[str] | None) -> Iterator[str]:
    """The table of this class's own fields, then those of the dataclasses in it.

    Args:
        part: what its heading begins with.
        config_class: a dataclass whose fields are documented by the strings below them.
        prefix: of its fields' full names, such as "data.".
        fixed: full names of the fields that are marked; None leaves out that column.
    """
    fields = dataclasses.fields(config_class)
    groups: dict[str, Any] = {field.name: field.type for field in fields if dataclasses.is_dataclass(field.type)}
    documented = docstring_parser.parse_from_object(config_class)
    if prefix:
        yield f"\n### {part}: {prefix.rstrip('.')}\n"
    yield f"\n{_plain(documented.short_description)}\n"
    if documented.long_description:
        yield f"\n{_plain(documented.long_description)}\n"
    yield f"\n| field | values | default |{' fixed |' if fixed is not None else ''} meaning |\n"
    yield f"|---|---|---|{'---|' if fixed is not None else ''}---|\n"
    meanings = {parameter.arg_name: _plain(parameter.description) for parameter in documented.params}
    for field in fields:
        if field.name not in groups:
            name = prefix + field.name
            marked = "" if fixed is None else " yes |" if _is_fixed(name, fixed) else " |"
            yield f"| `{name}` | {_values(field.type)} | {_default(field)} |{marked} {meanings[field.name]} |\n"
    for name, group in groups.items():
        yield from _sections(part, group, f"{prefix}{name}.", fixed)


def _is_fixed(name: str, fixed: set[str]) -> bool:
    """A mapping is, if what stands in it is."""
    return any(f"{full}.".startswith(f"{name}.") for full in fixed)


def _values(annotation: Any) -> str:
    """What a field may hold, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _RANGES:
        return _RANGES[annotation]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_values(arguments[0])}"
    if origin is dict:
        return "mapping"
    if origin in (Union, types.UnionType):
        return " or ".join(_values(argument) for argument in arguments)
    raise TypeError(f"{annotation}: no words for this type in ops/configuration_page.py")


def _default(field: dataclasses.Field[Any]) -> str:
    """As YAML and flags have it; empty for empty text."""
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return value if value == "" else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _plain(text: str | None) -> str:
    """One line, fit for a cell."""
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
