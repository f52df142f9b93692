"""Ranks that would not compute the same update are refused, with what differs and where."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import DataConfig
from pipelines.manifest import SplitIndex, open_split
from train.config import OptimizerConfig, PretrainConfig
from train.ranks import OtherRankError, Ranks
from train.same_everywhere import refuse_differing_ranks, source_sha256


def leave(_: dict[str, Any]) -> None:
    """As it is."""


@dataclass(frozen=True, kw_only=True)
class Told(Ranks):
    """Four ranks, of which one or more say something else than this one."""

    changes: dict[int, Callable[[dict[str, Any]], None]]

    def texts(self, text: str) -> list[str]:
        texts = []
        for rank in range(self.world_size):
            content = json.loads(text)
            self.changes.get(rank, leave)(content)
            texts.append(json.dumps(content))
        return texts


@pytest.fixture
def split(shards: Path) -> SplitIndex:
    return open_split(shards, "train")


def changed(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({name.replace("__", "."): value for name, value in values.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(seed=7), "seed differs: 0 on rank 0, 7 on rank 1 (differing ranks: 1, 3); start all ranks"),
        (changed(optimizer__base_lr=9), "optimizer.base_lr differs: 0.3 on rank 0, 9 on rank 1"),
        (changed(timeouts__step_seconds=9), "timeouts.step_seconds differs: 600.0 on rank 0, 9 on rank 1"),
        (lambda c: c.update({"the code of Diptych": "x"}), "the code of Diptych differs: "),
        (lambda c: c.update({"the version of torch": "1.0"}), "the version of torch differs: "),
        (lambda c: c.update({"the data manifest": "x"}), "the data manifest differs: "),
        (lambda c: c.pop("precision"), "precision differs: bf16 on rank 0, None on rank 1"),
    ],
)
def test_what_differs_is_named_with_the_ranks(
    split: SplitIndex, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    ranks = Told(world_size=4, changes={1: change, 3: change})
    with pytest.raises(OtherRankError) as error:
        refuse_differing_ranks(PretrainConfig(optimizer=OptimizerConfig(base_lr=0.3), precision="bf16"), split, ranks)
    assert str(error.value).startswith(message)


def test_places_of_a_node_may_differ_and_equal_ranks_go_on(split: SplitIndex) -> None:
    refuse_differing_ranks(PretrainConfig(), split, Told(world_size=4, changes={}))
    refuse_differing_ranks(PretrainConfig(), split, Ranks())
    seen: list[dict[str, Any]] = []
    for directory in ("/here", "/there"):
        config = replace(PretrainConfig(), run_dir=directory, data=DataConfig(dir=directory))
        refuse_differing_ranks(config, split, Told(world_size=2, changes={1: seen.append}))
    assert seen[0] == seen[1]


def test_the_code_of_a_checkout_has_one_hash() -> None:
    assert source_sha256() == source_sha256()
    assert len(source_sha256()) == 64
