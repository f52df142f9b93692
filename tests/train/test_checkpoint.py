import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from train.checkpoint import (
    Checkpoint,
    load_latest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from train.config import OptimizerConfig
from train.errors import RunError
from train.optimizer import build_optimizer, set_learning_rate


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        model={"w": torch.full((3,), float(step))},
        optimizer={"w/momentum": torch.ones(3)},
        probe={"weight": torch.full((2,), float(step))},
        scaler={"scale": 4.0},
        config={"seed": 0},
        data_fingerprint="abc",
    )


def test_the_latest_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep_last=5)
    loaded = load_latest(tmp_path)
    assert loaded is not None
    assert loaded.step == 10
    assert torch.equal(loaded.model["w"], torch.full((3,), 10.0))
    assert torch.equal(loaded.probe["weight"], torch.full((2,), 10.0))
    assert (loaded.scaler, loaded.config, loaded.data_fingerprint) == ({"scale": 4.0}, {"seed": 0}, "abc")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_checkpoint(tmp_path, checkpoint(step), keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_what_a_crash_left_half_written_is_not_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep_last=2)
    partial = tmp_path / ".step-00000002.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    loaded = load_latest(tmp_path)
    assert loaded is not None
    assert loaded.step == 1
    save_checkpoint(tmp_path, checkpoint(2), keep_last=2)
    assert not partial.exists()


def flip_a_byte(directory: Path) -> None:
    data = bytearray((directory / "model.safetensors").read_bytes())
    data[-1] ^= 255
    (directory / "model.safetensors").write_bytes(data)


def remove_a_file(directory: Path) -> None:
    (directory / "optimizer.safetensors").unlink()


def cut_the_state(directory: Path) -> None:
    text = (directory / "state.json").read_text()
    (directory / "state.json").write_text(text[: len(text) // 2])


@pytest.mark.parametrize("damage", [flip_a_byte, remove_a_file, cut_the_state])
def test_a_damaged_checkpoint_is_passed_over_loudly(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step), keep_last=2)
    damage(tmp_path / "step-00000002")
    with caplog.at_level(logging.ERROR):
        loaded = load_latest(tmp_path)
    assert loaded is not None
    assert loaded.step == 1
    assert "step-00000002 is damaged" in caplog.text


def test_starting_over_in_silence_is_not_an_answer_to_damage(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep_last=1)
    flip_a_byte(tmp_path / "step-00000001")
    with pytest.raises(RunError, match="none of its 1 checkpoints can be read"):
        load_latest(tmp_path)
    assert load_latest(tmp_path / "empty") is None


def test_another_format_version_is_refused_by_name(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(1), keep_last=1) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))
    with pytest.raises(RunError, match="format version 0, this program reads 2"):
        load_latest(tmp_path)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_a_restored_optimizer_goes_on_bitwise(tmp_path: Path, name: str) -> None:
    config = OptimizerConfig(name=name)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        model(x).square().sum().backward()
        set_learning_rate(optimizer, 0.1)
        optimizer.step()
        optimizer.zero_grad()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    optimizer = build_optimizer(config, model)
    for seed in range(3):
        step(model, optimizer, seed)
    saved = Checkpoint(
        step=3,
        model=model.state_dict(),
        optimizer=optimizer_tensors(optimizer, model),
        probe={},
        scaler={},
        config={},
        data_fingerprint="",
    )
    save_checkpoint(tmp_path, saved, keep_last=1)
    step(model, optimizer, 9)

    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    loaded = load_latest(tmp_path)
    assert loaded is not None
    other.load_state_dict(loaded.model)
    other_optimizer = build_optimizer(config, other)
    restore_optimizer(other_optimizer, other, loaded.optimizer)
    step(other, other_optimizer, 9)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
