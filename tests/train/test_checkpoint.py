"""What is saved comes back; what is damaged does not pass for a checkpoint."""

import json
import logging
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_latest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from train.checkpoint_files import STATE, SUMS, TENSORS, CheckpointState
from train.config import CheckpointConfig, OptimizerConfig
from train.errors import RunError
from train.optimizer import build_optimizer, set_learning_rate

KEEP = CheckpointConfig(keep_last=5)
FILES = (*TENSORS, STATE, SUMS)


def checkpoint(step: int) -> Checkpoint:
    state = CheckpointState(
        step=step,
        steps_per_epoch=4,
        config={"seed": 0, "views.size": 32},
        data_fingerprint="abc",
        scaler={"scale": 4.0},
        skipped_updates=1,
        left_out=(3, 7),
        probe_top1=0.5,
    )
    return Checkpoint(
        state=state,
        model={"w": torch.full((3,), float(step)), "n": torch.tensor(step)},
        optimizer={"w/momentum": torch.ones(3, dtype=torch.bfloat16)},
        probe={"weight": torch.full((2, 2), float(step)).T},
    )


def assert_same(ours: Checkpoint | None, wanted: Checkpoint) -> None:
    assert ours is not None
    assert ours.state == wanted.state
    for name, tensors in wanted.tensors.items():
        assert ours.tensors[name].keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert ours.tensors[name][key].dtype == tensor.dtype
            assert torch.equal(ours.tensors[name][key], tensor)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A directory with the checkpoints of steps 1 and 2."""
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step), KEEP)
    return tmp_path


def test_the_latest_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        path = save_checkpoint(tmp_path, checkpoint(step), KEEP)
    assert_same(load_latest(tmp_path), checkpoint(10))
    assert_same(load_checkpoint(path), checkpoint(10))
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)


def test_sha256sum_agrees_with_the_sums_of_all_files(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(1), KEEP)
    said = subprocess.run(
        ["sha256sum", "--strict", "-c", SUMS], cwd=path, capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines() == [f"{name}: OK" for name in (*TENSORS, STATE)]


def flipped(data: bytes) -> Iterator[bytes]:
    """With one bit the other way: in every byte, a bit by chance."""
    draws = random.Random(0)  # noqa: S311  # which byte is flipped is no secret
    for position, byte in enumerate(data):
        yield data[:position] + bytes([byte ^ (1 << draws.randrange(8))]) + data[position + 1 :]


def truncated(data: bytes) -> Iterator[bytes]:
    """To every length below its own."""
    return (data[:length] for length in range(len(data)))


@pytest.mark.parametrize("damage", [flipped, truncated])
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_with_any_byte_of_any_file_changed_or_missing_is_passed_over(
    two: Path, name: str, damage: Callable[[bytes], Iterator[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    path = two / "step-00000002" / name
    whole = path.read_bytes()
    loggers = logging.getLogger("train.checkpoint")
    for number, data in enumerate(damage(whole)):
        path.write_bytes(data)
        damaged: list[Path] = []
        caplog.clear()
        loaded = load_latest(two, damaged)
        assert loaded is not None
        assert loaded.step == 1, f"{damage.__name__} {number} of {name} was not noticed"
        assert damaged == [path.parent]
        assert [(record.name, record.levelno) for record in caplog.records] == [(loggers.name, logging.ERROR)]
    path.write_bytes(whole)
    assert_same(load_latest(two), checkpoint(2))


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_without_one_of_its_files_is_passed_over_by_name(
    two: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (two / "step-00000002" / name).unlink()
    assert_same(load_latest(two), checkpoint(1))
    assert f"{two}/step-00000002 is damaged" in caplog.text
    assert "is passed over for the one before" in caplog.text
    assert name in caplog.text


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(two: Path) -> None:
    (two / "step-00000002").rename(two / "step-00000009")
    assert_same(load_latest(two), checkpoint(1))


def test_bytes_after_the_end_of_any_file_are_noticed(two: Path) -> None:
    for name in FILES:
        path = two / "step-00000002" / name
        whole = path.read_bytes()
        path.write_bytes(whole + b"x")
        assert_same(load_latest(two), checkpoint(1))
        path.write_bytes(whole)


def test_starting_over_in_silence_is_not_an_answer_to_damage(
    two: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for path in two.iterdir():
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="none of its 2 checkpoints can be read; restore one or remove all"):
        load_latest(two)
    assert load_latest(tmp_path_factory.mktemp("empty")) is None
    assert load_latest(two / "missing") is None


def test_what_a_crash_left_half_written_is_not_a_checkpoint(two: Path) -> None:
    partial = two / ".step-00000003.partial"
    shutil.copytree(two / "step-00000002", partial)
    (two / "damaged-step-00000004").mkdir()
    assert_same(load_latest(two), checkpoint(2))
    save_checkpoint(two, checkpoint(3), KEEP)
    assert not partial.exists()
    assert (two / "damaged-step-00000004").exists()


def write_version_2(directory: Path, step: int) -> None:
    """The layout before SHA256SUMS: the sums stand in state.json."""
    path = directory / f"step-{step:08d}"
    path.mkdir()
    for name in TENSORS:
        shutil.copy(directory / "step-00000001" / name, path)
    content = {"format": "diptych-checkpoint", "version": 2, "step": step, "scaler": {}, "sha256": {}, "config": {}}
    (path / STATE).write_text(json.dumps(content))


def test_another_format_version_is_refused_by_name_and_not_passed_over(two: Path) -> None:
    write_version_2(two, step=3)
    with pytest.raises(RunError, match="step-00000003: format version 2, this program reads 3; go on with the version"):
        load_latest(two)
    save_checkpoint(two, checkpoint(4), KEEP)  # what is newer can be read, and the old one stays
    assert_same(load_latest(two), checkpoint(4))
    assert (two / "step-00000003").exists()


def test_a_newer_version_with_sums_is_refused_by_name(two: Path) -> None:
    path = two / "step-00000002"
    old = (path / STATE).read_text()
    (path / STATE).write_text(old.replace('"version": 3', '"version": 4'))
    sums = subprocess.run(["sha256sum", *TENSORS, STATE], cwd=path, capture_output=True, text=True, check=True).stdout
    (path / SUMS).write_text(sums)
    with pytest.raises(RunError, match="format version 4, this program reads 3"):
        load_latest(two)


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
    state = CheckpointState(step=3, steps_per_epoch=3, config={}, data_fingerprint="", scaler={})
    saved = Checkpoint(state=state, model=model.state_dict(), optimizer=optimizer_tensors(optimizer, model), probe={})
    save_checkpoint(tmp_path, saved, KEEP)
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


def test_an_optimizers_state_of_unknown_parameters_is_refused() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(RunError, match="an optimizer's state of other, which this model does not have"):
        restore_optimizer(optimizer, model, {"other/momentum": torch.ones(2)})
