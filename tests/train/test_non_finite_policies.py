"""What a run does about a batch that is not finite: stop, leave out its update, or go back and leave out the batch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from started_ranks import start_ranks
from torch import nn

from train.config import NonFiniteConfig, OptimizerConfig
from train.lars import LARS
from train.non_finite import Broken, NonFiniteError, RollBack, answer
from train.optimizer import step_unless

WORLD_SIZE = 2


def finished(place: str, directory: Path, data: Path, policy: str) -> tuple[list[bytes], list[dict[str, Any]], str]:
    """Weights at the end, log lines, and what rank 0 warned of."""
    directory.mkdir()
    flags = [f"--non_finite.policy={policy}", "--stop_after_steps=16"]
    ends = start_ranks(place, directory, data, [flags] * WORLD_SIZE).ends()
    assert [status for status, _ in ends] == [0] * WORLD_SIZE, ends
    last = directory / "run" / "checkpoints" / "step-00000016"
    weights = [(last / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer", "probe")]
    lines = (directory / "run" / "metrics.jsonl").read_text().splitlines()
    return weights, [json.loads(line) for line in lines], ends[0][1]


def test_skip_and_rollback_both_end_as_if_the_batch_had_taught_nothing(shards: Path, tmp_path: Path) -> None:
    expected, curve, _ = finished("left out", tmp_path / "left-out", shards, "stop")
    assert [line["step"] for line in curve] == [*range(1, 8), *range(9, 17)]
    skipped, lines, told = finished("lost views", tmp_path / "skip", shards, "skip")
    assert skipped == expected
    assert "projections of step 8 not finite on rank 0, 1; " in told  # global BatchNorm spreads them
    assert "this update was left out (1 of 10)" in told
    assert [line["left_out_batches"] for line in lines] == [0] * 7 + [1] * 9
    assert lines[7]["loss"] is None  # JSON has no NaN
    back, again, _ = finished("lost views", tmp_path / "rollback", shards, "rollback")
    assert back == expected
    assert [(line["step"], line["loss"]) for line in again] == [(line["step"], line["loss"]) for line in curve]
    assert [line["left_out_batches"] for line in again[-3:]] == [1, 1, 1]
    state = json.loads((tmp_path / "rollback" / "run" / "checkpoints" / "step-00000016" / "state.json").read_text())
    assert state["left_out"] == [7]
    ids = json.loads((tmp_path / "skip" / "run" / "non_finite" / "step-00000008" / "rank-1.json").read_text())
    assert len(ids["sample_id"]) == 8


def test_a_run_with_the_default_policy_stops_on_all_ranks_and_saves_nothing_of_it(shards: Path, tmp_path: Path) -> None:
    ends = start_ranks("lost views", tmp_path, shards, [[]] * WORLD_SIZE).ends()
    assert [status for status, _ in ends] == [2] * WORLD_SIZE
    assert "projections of step 8 not finite on rank 0, 1; " in ends[0][1]
    assert "pretrain: error" not in ends[1][1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]


BROKEN = Broken(step=7, what="gradients", ranks=(1,), directory=Path("run/non_finite/step-00000008"))


def test_a_limit_ends_what_skips_or_goes_back_for_ever() -> None:
    answer(BROKEN, NonFiniteConfig(policy="skip", limit=2), 2, "")
    with pytest.raises(RollBack):
        answer(BROKEN, NonFiniteConfig(policy="rollback", limit=2), 1, "")
    for policy, times in (("skip", 3), ("rollback", 2)):
        with pytest.raises(NonFiniteError, match=r"more than non_finite\.limit = 2 such batches"):
            answer(BROKEN, NonFiniteConfig(policy=policy, limit=2), times, "")  # type: ignore[arg-type]  # of two
    with pytest.raises(NonFiniteError, match="gradients of step 8 not finite on rank 1; its"):
        answer(BROKEN, NonFiniteConfig(), 0, "")


@pytest.mark.parametrize("kind", ["lars", "adamw"])
def test_an_optimizer_leaves_weights_and_state_bitwise_as_they_were_when_told_to(kind: str) -> None:
    from train.optimizer import build_optimizer

    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    inner = build_optimizer(OptimizerConfig(name=kind), model)
    for group in inner.param_groups:
        group["lr"] = 0.1
    wrapped: Any = type("Wrapped", (), {"optimizer": inner, "step": inner.step})()

    def update(gradient: float, skip: float | None) -> list[torch.Tensor]:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        step_unless(wrapped, None if skip is None else torch.tensor(skip), None)
        state = [value for values in inner.state.values() for value in values.values()]
        return [tensor.clone() for tensor in (*model.parameters(), *state) if isinstance(tensor, torch.Tensor)]

    before = update(1.0, 0.0)
    left = update(float("nan"), 1.0)
    assert all(torch.equal(was, now) for was, now in zip(before, left, strict=True))
    learnt = update(1.0, 0.0)
    assert not any(torch.equal(was, now) for was, now in zip(before, learnt, strict=True))
    assert isinstance(inner, LARS) == (kind == "lars")
