"""A run that has broken down stops, names step and rank, and leaves its samples' ids."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from train.config import NonFiniteConfig
from train.non_finite import NonFiniteError, NonFiniteWatch, answer

CPU = torch.device("cpu")
FINITE = torch.ones(4, 3)
LOSS = torch.tensor(2.5)
NAN = torch.tensor(float("nan"))


def lost(value: float) -> Tensor:
    """Projections of which one number is not finite."""
    z = FINITE.clone()
    z[2, 1] = value
    return z


def batch_of(step: int, rank: int = 0) -> Any:
    return SimpleNamespace(step=step, sample_id=torch.tensor([10 * step + 2 * rank, 10 * step + 2 * rank + 1]))


class Ranks:
    """A watch on each of several ranks, which are threads where they meet."""

    def __init__(self, run_dir: Path, count: int, steps_between: int = 10) -> None:
        self.run_dir, self.count = run_dir, count
        self.watches = [NonFiniteWatch(CPU, steps_between) for _ in range(count)]
        self._barrier = Barrier(count, timeout=20)
        self._given: dict[int, Tensor] = {}

    def refuse(self) -> set[str]:
        """What the ranks raise; nothing if none does, and an error if only some do."""
        with ThreadPoolExecutor(self.count) as threads:
            messages = list(threads.map(self._refuse, range(self.count)))
        assert len({message is None for message in messages}) == 1
        return {message for message in messages if message is not None}

    def _refuse(self, rank: int) -> str | None:
        accelerator: Any = SimpleNamespace(
            process_index=rank,
            num_processes=self.count,
            gather=partial(self._gather, rank),
            wait_for_everyone=self._barrier.wait,
        )
        broken = self.watches[rank].look_back(accelerator, self.run_dir)
        if broken is None:
            return None
        with pytest.raises(NonFiniteError) as error:
            answer(broken, NonFiniteConfig(), 0, "lower it")
        return str(error.value)

    def _gather(self, rank: int, tensor: Tensor) -> Tensor:
        self._given[rank] = tensor
        self._barrier.wait()
        return torch.cat([self._given[rank] for rank in range(self.count)])


def files(run_dir: Path) -> dict[str, Any]:
    """Everything below the run directory, as JSON."""
    return {
        str(path.relative_to(run_dir)): json.loads(path.read_text()) for path in run_dir.rglob("*") if path.is_file()
    }


def test_what_is_finite_is_let_through_and_leaves_nothing(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 2)
    for step in range(25):
        for watch in ranks.watches:
            watch.look(batch_of(step), LOSS, 1e4 * FINITE)
        if step % 10 == 9:
            assert not ranks.refuse()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_step_is_named_though_later_ones_are_lost_too(value: float, tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 1)
    for step in range(10):
        ranks.watches[0].look(batch_of(step), LOSS if step < 3 else NAN, FINITE if step < 3 else lost(value))
    (message,) = ranks.refuse()
    assert message.startswith("projections of step 4 not finite on rank 0; ")
    assert message.endswith("; lower it")
    assert f"python -m train.replay {tmp_path / 'non_finite' / 'step-00000004'}" in message
    assert files(tmp_path) == {
        "non_finite/step-00000004/rank-0.json": {
            "format": "diptych-batch",
            "step": 3,
            "rank": 0,
            "world_size": 1,
            "sample_id": [30, 31],
        }
    }


def test_the_rank_whose_projections_are_lost_is_named_and_not_those_that_it_drew_into_its_loss(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 3)
    for step in range(10):
        for rank, watch in enumerate(ranks.watches):
            z = lost(float("nan")) if step >= 5 and rank == 1 else FINITE
            watch.look(batch_of(step, rank), NAN if step >= 5 else LOSS, z)
    (message,) = ranks.refuse()
    assert message.startswith("projections of step 6 not finite on rank 1; ")
    assert {name: content["sample_id"] for name, content in files(tmp_path).items()} == {
        f"non_finite/step-00000006/rank-{rank}.json": [50 + 2 * rank, 51 + 2 * rank] for rank in range(3)
    }


def test_a_loss_that_is_lost_alone_is_told_as_the_loss(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 2)
    ranks.watches[0].look(batch_of(0), LOSS, FINITE)
    ranks.watches[1].look(batch_of(0, 1), NAN, FINITE)
    (message,) = ranks.refuse()
    assert message.startswith("loss of step 1 not finite on rank 1; ")


def test_samples_are_kept_from_the_first_step_since_the_last_logging_step(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 1, steps_between=4)
    for step in range(8):
        ranks.watches[0].look(batch_of(step), LOSS, FINITE if step < 4 else lost(float("inf")))
        if step == 3:
            assert not ranks.refuse()
    (message,) = ranks.refuse()
    assert message.startswith("projections of step 5 ")
    assert files(tmp_path)["non_finite/step-00000005/rank-0.json"]["sample_id"] == [40, 41]


def test_looking_waits_for_nothing() -> None:
    with FakeTensorMode():
        watch = NonFiniteWatch(CPU, 2)
        for step in range(3):
            watch.look(batch_of(step), torch.ones(()), torch.ones(4, 3))
            with pytest.raises(RuntimeError):
                watch._first.tolist()  # what waits is noticed
