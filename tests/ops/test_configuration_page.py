import re
from pathlib import Path
from typing import Any

import pytest

from eval.config import EvaluateConfig
from ops.configuration_page import page
from train.arguments import _parser
from train.config import PretrainConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def rows(part: str) -> list[list[str]]:
    """Cells of the lines of fields below one of the page's two headings."""
    text = page().partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]


def test_the_reference_page_is_made_from_the_settings_as_they_are() -> None:
    assert PAGE.read_text() == page(), "stale: python -m ops.configuration_page > docs/configuration.md"


@pytest.mark.parametrize(("part", "config_class"), [("Pretraining", PretrainConfig), ("Evaluation", EvaluateConfig)])
def test_every_flag_of_the_command_line_stands_on_it_once_and_says_what_it_means(
    part: str, config_class: type[Any]
) -> None:
    fields = [cells[0].strip(" `") for cells in rows(part)]
    parser = _parser(config_class, None)  # type: ignore[arg-type]  # a class is hashable
    flags = [name for name in vars(parser.get_defaults().as_flat()) if name != "config"]
    assert sorted(fields) == sorted(flags)
    assert all(cells[-1].strip() for cells in rows(part))


def test_fields_that_may_change_between_two_starts_are_not_marked_as_fixed() -> None:
    marked = {cells[0].strip(" `"): cells[3].strip() == "yes" for cells in rows("Pretraining")}
    assert marked["global_batch"]
    assert marked["encoder.arguments"]
    assert not marked["data.cache_dir"]
    assert not marked["metrics.port"]
