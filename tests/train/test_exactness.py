"""What k processes compute is what one would: whole updates, from shards to weights."""

from pathlib import Path

import pytest
import rank_functions
import torch
from rank_pool import RankPool


@pytest.mark.parametrize("world_size", [2, 4])
def test_five_updates_on_several_ranks_equal_those_of_one_in_float64(
    world_size: int, shards: Path, two_ranks: RankPool, four_ranks: RankPool
) -> None:
    alone = rank_functions.train_for(shards, 5)
    answers = {2: two_ranks, 4: four_ranks}[world_size].run(rank_functions.train_for, shards, 5)
    for name, tensor in alone.items():
        for answer in answers:
            assert torch.allclose(answer[name].double(), tensor.double(), rtol=1e-9, atol=1e-10), name
