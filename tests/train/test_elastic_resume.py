"""A run goes on with another number of ranks, or another micro-batch, as if nothing had changed."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from rank_pool import RankPool
from resume_on_ranks import GLOBAL_BATCH, Leg, go_on
from started_ranks import start_ranks

STEPS = 40
WORLD_SIZES = (2, 1, 4, 2)


class Cluster:
    """Starts a run with any number of ranks."""

    def __init__(self, data: Path, two_ranks: RankPool, four_ranks: RankPool) -> None:
        self._data, self._pools = data, {2: two_ranks, 4: four_ranks}

    def go_on(
        self,
        world_size: int,
        run_dir: Path,
        last_step: int,
        dtype: torch.dtype = torch.float64,
        norm: Literal["batch", "group"] = "batch",
        micro_batch: int = 0,
    ) -> Leg:
        """One start, up to a step; all ranks end with the same."""
        run_dir.mkdir(exist_ok=True)
        asked = (self._data, run_dir, last_step, dtype, norm, micro_batch)
        if world_size == 1:
            return go_on(*asked)
        first, *others = self._pools[world_size].run(go_on, *asked)
        assert all(other.losses == first.losses and other.ids == first.ids for other in others)
        assert all(torch.equal(other.weights[name], first.weights[name]) for other in others for name in first.weights)
        assert isinstance(first, Leg)
        return first


@pytest.fixture
def cluster(shards: Path, two_ranks: RankPool, four_ranks: RankPool) -> Cluster:
    return Cluster(shards, two_ranks, four_ranks)


def drawn_changes(seed: int) -> list[int]:
    """Steps after which the number of ranks changes, and the last step."""
    between = np.random.default_rng(seed).choice(np.arange(2, STEPS - 1), size=len(WORLD_SIZES) - 1, replace=False)
    return [*sorted(int(step) for step in between), STEPS]


def largest_deviation(ours: Leg, wanted: Leg) -> float:
    """Of any weight, relative to the largest of its tensor."""
    assert ours.weights.keys() == wanted.weights.keys()
    return max(
        float(
            (ours.weights[name].double() - tensor.double()).abs().max() / tensor.double().abs().max().clamp_min(1e-30)
        )
        for name, tensor in wanted.weights.items()
    )


@pytest.mark.parametrize(
    ("seed", "norm", "micro_batches"),
    [(0, "batch", (0, 0, 0, 0)), (1, "group", (0, 3, 2, 0))],
    ids=["whole batches", "micro-batches"],
)
def test_two_ranks_then_one_then_four_then_two_end_as_one_alone_in_float64(
    seed: int,
    norm: Literal["batch", "group"],
    micro_batches: tuple[int, ...],
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    alone = cluster.go_on(1, tmp_path / "alone", STEPS, norm=norm)
    assert len({tuple(ids) for ids in alone.ids}) == STEPS
    assert all(len(set(ids)) == GLOBAL_BATCH for ids in alone.ids)
    step = 0
    for world_size, micro_batch, last_step in zip(WORLD_SIZES, micro_batches, drawn_changes(seed), strict=True):
        leg = cluster.go_on(world_size, tmp_path / "run", last_step, norm=norm, micro_batch=micro_batch)
        assert leg.first_step == step
        assert leg.ids == alone.ids[step:last_step]
        assert leg.losses == pytest.approx(alone.losses[step:last_step], rel=1e-8)
        step = last_step
    assert largest_deviation(leg, alone) < 1e-8


@pytest.mark.slow  # the same in float64 is not
def test_ten_steps_after_each_change_of_ranks_are_those_of_no_change_in_float32(
    cluster: Cluster, tmp_path: Path
) -> None:
    step, run_dir = 8, tmp_path / "run"
    cluster.go_on(2, run_dir, step, torch.float32)
    for before, after in pairwise(WORLD_SIZES):
        unchanged = Path(shutil.copytree(run_dir, tmp_path / f"unchanged-{step}"))
        wanted = cluster.go_on(before, unchanged, step + 10, torch.float32)
        got = cluster.go_on(after, run_dir, step + 10, torch.float32)
        assert got.losses == pytest.approx(wanted.losses, rel=1e-4)
        assert got.ids == wanted.ids
        step += 10


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_same_number_of_ranks_ends_in_the_same_bits(world_size: int, cluster: Cluster, tmp_path: Path) -> None:
    whole = cluster.go_on(world_size, tmp_path / "whole", 24, torch.float32)
    stop = int(np.random.default_rng(3).integers(5, 20))
    first = cluster.go_on(world_size, tmp_path / "run", stop, torch.float32)
    second = cluster.go_on(world_size, tmp_path / "run", 24, torch.float32)
    assert [*first.losses, *second.losses] == whole.losses
    assert all(torch.equal(second.weights[name], tensor) for name, tensor in whole.weights.items())


@pytest.mark.slow  # starts six processes one after another
def test_separate_processes_go_on_from_two_ranks_to_one_to_two(shards: Path, tmp_path: Path) -> None:
    lines = {}
    for name, legs in (("alone", [(1, 24)]), ("run", [(2, 7), (1, 15), (2, 24)])):
        directory = tmp_path / name
        directory.mkdir()
        for world_size, last_step in legs:
            ends = start_ranks("", directory, shards, [[f"--stop_after_steps={last_step}"]] * world_size).ends()
            assert [status for status, _ in ends] == [0] * world_size, ends
        lines[name] = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines["run"]] == list(range(1, 25))
    assert [line["learning_rate"] for line in lines["run"]] == [line["learning_rate"] for line in lines["alone"]]
    losses = {name: [line["loss"] for line in of_run] for name, of_run in lines.items()}
    assert losses["run"] == pytest.approx(losses["alone"], rel=1e-4)
