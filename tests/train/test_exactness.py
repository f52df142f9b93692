"""What k processes compute is what one would: whole updates, from shards to weights."""

from pathlib import Path

import pytest
import rank_functions
import torch
from rank_pool import RankPool
from torch import Tensor


def assert_equal_to_ten_digits(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        assert torch.allclose(ours[name].double(), tensor.double(), rtol=1e-10, atol=1e-10), name


@pytest.mark.parametrize("world_size", [2, 4])
def test_five_updates_on_several_ranks_equal_those_of_one_in_float64(
    world_size: int, shards: Path, two_ranks: RankPool, four_ranks: RankPool
) -> None:
    alone = rank_functions.train_for(shards, 5, "batch", 0)
    for answer in {2: two_ranks, 4: four_ranks}[world_size].run(rank_functions.train_for, shards, 5, "batch", 0):
        assert_equal_to_ten_digits(answer, alone)


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_five_updates_in_micro_batches_on_two_ranks_equal_whole_ones_of_one_with_groupnorm(
    micro_batch: int, shards: Path, two_ranks: RankPool
) -> None:
    alone = rank_functions.train_for(shards, 5, "group", 0)
    for answer in two_ranks.run(rank_functions.train_for, shards, 5, "group", micro_batch):
        assert_equal_to_ten_digits(answer, alone)
