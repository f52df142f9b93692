"""Which checkpoints stay, and that no crash takes the last good one."""

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train import checkpoint as checkpoint_module
from train.checkpoint import Checkpoint, load_latest, save_checkpoint
from train.checkpoint_files import CheckpointState, list_checkpoints, outdated, prune
from train.config import CheckpointConfig

STEPS_PER_EPOCH = 4


def state(step: int, *, change: int = 0, probe_top1: float | None = None) -> CheckpointState:
    return CheckpointState(
        step=step,
        change=change,
        steps_per_epoch=STEPS_PER_EPOCH,
        config={"seed": 0},
        data_fingerprint="abc",
        scaler={},
        probe_top1=probe_top1,
    )


def checkpoint(step: int, *, value: float = 0.0, change: int = 0, probe_top1: float | None = None) -> Checkpoint:
    return Checkpoint(
        state=state(step, change=change, probe_top1=probe_top1),
        model={"w": torch.full((3,), value)},
        optimizer={"w/momentum": torch.ones(3)},
        probe={},
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def kept(config: CheckpointConfig, *states: CheckpointState) -> list[str]:
    of_path = {Path(one.name): one for one in states}
    return sorted(path.name for path in of_path.keys() - set(outdated(of_path, config)))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_checkpoint(tmp_path, checkpoint(step), CheckpointConfig(keep_last=2))
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_one_at_the_end_of_every_so_many_epochs_is_kept_for_good() -> None:
    config = CheckpointConfig(keep_last=1, keep_every_epochs=2)
    steps = [state(step) for step in range(4, 27, 2)]
    assert kept(config, *steps) == ["step-00000008", "step-00000016", "step-00000024", "step-00000026"]


def test_the_best_by_the_probe_is_kept_and_the_newer_of_equals() -> None:
    accuracies = [None, 0.4, 0.7, 0.7, 0.6, None]
    states = [state(step, probe_top1=top1) for step, top1 in enumerate(accuracies, start=1)]
    assert kept(CheckpointConfig(keep_last=1, keep_best=True), *states) == ["step-00000004", "step-00000006"]
    assert kept(CheckpointConfig(keep_last=1), *states) == ["step-00000006"]
    assert kept(CheckpointConfig(keep_last=1, keep_best=True), state(1), state(2)) == ["step-00000002"]


def test_those_after_a_change_of_configuration_are_newer_whatever_their_step(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last=3)
    for change, step in ((0, 900), (1, 30), (1, 40), (10, 5), (2, 7)):
        save_checkpoint(tmp_path, checkpoint(step, change=change), CheckpointConfig(keep_last=9))
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000005-change-10",
        "step-00000007-change-2",
        "step-00000040-change-1",
        "step-00000030-change-1",
        "step-00000900",
    ]
    loaded = load_latest(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.state.change) == (5, 10)
    prune(tmp_path, config)
    assert names(tmp_path) == ["step-00000005-change-10", "step-00000007-change-2", "step-00000040-change-1"]


def test_a_step_beyond_eight_digits_is_newer_than_one_of_eight(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, checkpoint(step), CheckpointConfig())
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-100000000", "step-99999999"]


def test_nothing_is_removed_before_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CheckpointConfig(keep_last=1)
    save_checkpoint(tmp_path, checkpoint(1), config)
    seen: list[list[str]] = []

    def look_and_prune(directory: Path, config: CheckpointConfig) -> None:
        seen.append(names(directory))
        prune(directory, config)

    monkeypatch.setattr(checkpoint_module, "prune", look_and_prune)
    save_checkpoint(tmp_path, checkpoint(2), config)
    assert seen == [["step-00000001", "step-00000002"]]
    assert names(tmp_path) == ["step-00000002"]


def test_what_a_crash_left_of_a_removal_is_removed(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last=1)
    save_checkpoint(tmp_path, checkpoint(1), config)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000001.removed")
    save_checkpoint(tmp_path, checkpoint(2), config)
    assert names(tmp_path) == ["step-00000002"]


def test_a_damaged_one_is_neither_counted_nor_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step), CheckpointConfig(keep_last=5))
    (tmp_path / "step-00000002" / "state.json").write_text("{")
    prune(tmp_path, CheckpointConfig(keep_last=2))
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    prune(tmp_path, CheckpointConfig(keep_last=1))
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    assert "step-00000002 cannot be read" in caplog.text


def test_a_run_directory_that_has_vanished_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tmp_path / "run" / "checkpoints", checkpoint(1), CheckpointConfig())
    assert not (tmp_path / "run").exists()


def test_old_ones_that_cannot_be_removed_do_not_fail_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = CheckpointConfig(keep_last=1)
    save_checkpoint(tmp_path, checkpoint(1), config)

    def busy(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))  # a network file system's

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        assert save_checkpoint(tmp_path, checkpoint(2), config).is_dir()
    assert "could not be removed" in caplog.text
    save_checkpoint(tmp_path, checkpoint(3), config)
    assert names(tmp_path) == ["step-00000003"]


class Crash(BaseException):
    """As if the process were gone: nothing is cleaned up."""


class Faults:
    """Lets so many operations on files succeed; the next is done by half, if that is possible, and raises."""

    def __init__(self, patch: pytest.MonkeyPatch, good: int, error: BaseException) -> None:
        self.left, self.error, self.met = good, error, ""
        for owner, name, half in (
            (checkpoint_module, "save_file", lambda _, path: Path(path).write_bytes(b"half")),
            (checkpoint_module, "write_state", lambda directory, _: (directory / "state.json").write_text("{")),
            (os, "fsync", None),
            (Path, "mkdir", None),
            (Path, "rename", None),
            (shutil, "rmtree", lambda path, **_: next(iter(Path(path).iterdir())).unlink()),
        ):
            patch.setattr(owner, name, self._wrapped(name, getattr(owner, name), half))

    def _wrapped(self, name: str, real: Callable[..., Any], half: Callable[..., Any] | None) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                self.met = name
                if half is not None:
                    half(*arguments, **options)
                raise self.error
            return real(*arguments, **options)

        return operation


def value_of(directory: Path) -> float:
    loaded = load_latest(directory)
    assert loaded is not None
    return float(loaded.model["w"][0])


@pytest.mark.parametrize("new_step", [2, 3], ids=["of the same step", "of a later step"])
@pytest.mark.parametrize("error", [Crash(), OSError(errno.EIO, "Input/output error")], ids=["crash", "EIO"])
@pytest.mark.parametrize("keep_last", [1, 2])
def test_whatever_file_operation_fails_the_checkpoint_before_or_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_step: int, error: BaseException, keep_last: int
) -> None:
    config = CheckpointConfig(keep_last=keep_last)
    start = tmp_path / "start"
    start.mkdir()
    for step in (1, 2):
        save_checkpoint(start, checkpoint(step, value=step), config)
    met = []
    for good in itertools.count():
        directory = Path(shutil.copytree(start, tmp_path / f"{good}"))
        with monkeypatch.context() as patch:
            faults = Faults(patch, good, error)
            try:
                save_checkpoint(directory, checkpoint(new_step, value=10), config)
            except (Crash, OSError) as raised:
                assert raised is error  # noqa: PT017  # which of them raise is not the point
        if not faults.met:
            break
        met.append(faults.met)
        # Read as it lies, and after another save: of the same step, as a run that was resumed would, or a later one.
        assert value_of(directory) in (2, 10), f"after operation {good}, {faults.met}"
        for step in (new_step, 5):
            again = Path(shutil.copytree(directory, tmp_path / f"{good}-{step}"))
            save_checkpoint(again, checkpoint(step, value=20), config)
            assert value_of(again) == 20
            assert len(list_checkpoints(again)) == len(names(again)) == keep_last  # and nothing else lies about
    assert {"save_file", "write_state", "fsync", "mkdir", "rename", "rmtree"} == set(met)


def test_one_that_was_being_replaced_counts_until_another_is_there(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last=1)
    save_checkpoint(tmp_path, checkpoint(2, value=2), config)
    (tmp_path / "step-00000002").rename(tmp_path / ".step-00000002.replaced")
    assert value_of(tmp_path) == 2
    save_checkpoint(tmp_path, checkpoint(3, value=3), CheckpointConfig(keep_last=2))
    assert names(tmp_path) == [".step-00000002.replaced", "step-00000003"]
    save_checkpoint(tmp_path, checkpoint(4, value=4), config)
    assert names(tmp_path) == ["step-00000004"]
