"""Where a run goes on from: its own newest checkpoint, another run's, or none; and when it may not."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from started_ranks import TINY
from tiny_shards import tiny_shards

from model.encoder_file import load_encoder
from train.arguments import parse
from train.checkpoint import load_latest
from train.config import PretrainConfig
from train.errors import RunError
from train.non_finite import NonFiniteError
from train.pretrain import open_data, pretrain
from train.ranks import Ranks
from train.resume_check import check_run_directory
from train.trainer import Trainer
from train.watchdog import Watchdog

Train = Callable[..., None]


@pytest.fixture
def train(shards: Path) -> Iterator[Train]:
    """Do what the command does, in this process."""

    def call(run_dir: Path, *flags: str, data: Path = shards) -> None:
        config = parse(PretrainConfig, [*TINY, f"--data.dir={data}", f"--run_dir={run_dir}", *flags])
        check_run_directory(config)
        AcceleratorState._reset_state(reset_partial_state=True)
        stop: Any = SimpleNamespace(asked=False, begin_training=lambda: None)
        call.stop = stop  # type: ignore[attr-defined]  # for tests that ask it to stop
        with Watchdog(Ranks(), config.timeouts, run_dir) as watchdog:
            assert not pretrain(config, open_data(config, 1), stop, Ranks(), watchdog)

    yield call
    AcceleratorState._reset_state(reset_partial_state=True)


def steps(run_dir: Path, name: str = "metrics.jsonl") -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / name).read_text().splitlines()]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_latest(run_dir / "checkpoints")
    assert checkpoint is not None
    return {**checkpoint.model, **checkpoint.optimizer, **checkpoint.probe}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_goes_on_from_another_run_or_from_one_checkpoint_and_leaves_that_as_it_was(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, first = tmp_path / "whole", tmp_path / "first"
    train(whole, "--stop_after_steps=12")
    train(first, "--stop_after_steps=8")
    left = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    for name, path in (("run", first), ("checkpoint", first / "checkpoints" / "step-00000005")):
        capsys.readouterr()
        flags = [f"--resume={path}", "--stop_after_steps=12"]
        train(tmp_path / name, *flags)
        step = 8 if name == "run" else 5
        assert f"resuming after step {step} of 24" in capsys.readouterr().out
        assert steps(tmp_path / name) == list(range(step + 1, 13))
        assert same(weights(tmp_path / name), weights(whole))
        train(tmp_path / name, *flags)  # the same command, now with checkpoints of its own
        assert "step 12 of 24 is reached already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == left


def test_resume_never_refuses_a_directory_that_has_a_checkpoint(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "--stop_after_steps=6", "--resume=never")
    before = weights(tmp_path / "run")
    with pytest.raises(RunError, match=r"resume = never: .* holds a checkpoint of step 6; give another --run_dir"):
        train(tmp_path / "run", "--resume=never")
    assert same(weights(tmp_path / "run"), before)


@pytest.mark.parametrize("content", [None, "step-00000003"])
def test_a_path_that_holds_no_checkpoint_is_refused(train: Train, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "other"
    path.mkdir()
    if content:
        path = path / content
        path.mkdir()
    with pytest.raises(RunError, match=f"resume = {path}: (has no checkpoints|cannot be read)"):
        train(tmp_path / "run", f"--resume={path}")


def test_the_newest_checkpoint_when_damaged_is_put_aside_and_the_run_ends_in_the_same_weights(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    train(whole, "--stop_after_steps=12")
    train(run_dir, "--stop_after_steps=8")
    damaged = run_dir / "checkpoints" / "step-00000008" / "optimizer.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        train(run_dir, "--stop_after_steps=12")
    assert "step-00000008 is damaged (sha256 of optimizer.safetensors differs) and is passed over" in caplog.text
    assert (run_dir / "checkpoints" / "damaged-step-00000008").is_dir()
    assert steps(run_dir) == list(range(1, 13))
    assert same(weights(run_dir), weights(whole))


def test_another_global_batch_is_refused_by_name_and_may_be_allowed(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    train(run_dir, "--stop_after_steps=8")  # of 4 an epoch
    with pytest.raises(RunError, match=r"global_batch = 16, but 32 was asked for; .* or --allow_config_change"):
        train(run_dir, "--global_batch=32", "--stop_after_steps=6")
    train(run_dir, "--global_batch=32", "--stop_after_steps=6", "--allow_config_change")
    assert "resuming after step 4 of 12" in capsys.readouterr().out  # 2 an epoch: the same epoch
    assert "global_batch was 16 up to step 8 and is 32 from step 4 on" in caplog.text
    names = [path.name for path in sorted((run_dir / "checkpoints").iterdir())]
    assert names[-2:] == ["step-00000005-change-1", "step-00000006-change-1"]
    assert steps(run_dir) == list(range(1, 9))  # what was told of the first part stays
    assert steps(run_dir, "metrics.change-1.jsonl") == [5, 6]
    train(run_dir, "--global_batch=32", "--stop_after_steps=8")  # goes on by the ordinary command
    assert "resuming after step 6 of 12" in capsys.readouterr().out
    assert steps(run_dir, "metrics.change-1.jsonl") == [5, 6, 7, 8]


def test_another_data_set_is_refused_and_may_be_allowed(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tiny_shards(tmp_path / "other", images_per_class=24, classes=4, side=32)
    train(tmp_path / "run", "--stop_after_steps=8")
    with pytest.raises(RunError, match=r"data\.dir = .*: not the data that .* was trained on; .*--allow_config_change"):
        train(tmp_path / "run", data=other)
    train(tmp_path / "run", "--stop_after_steps=14", "--allow_config_change", data=other)
    assert "data.dir was other data up to step 8" in caplog.text
    assert steps(tmp_path / "run", "metrics.change-1.jsonl")[-1] == 14


def test_an_architecture_cannot_change_even_where_changes_are_allowed(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "--stop_after_steps=2")
    with pytest.raises(RunError, match="the checkpoint does not fit the model"):
        train(tmp_path / "run", "--head.dim=32", "--allow_config_change")
    train(tmp_path / "run", "--stop_after_steps=3")


def test_micro_batches_may_change_without_a_word_being_refused(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "--stop_after_steps=2", "--micro_batch=8")
    train(tmp_path / "run", "--stop_after_steps=4", "--micro_batch=4")
    assert steps(tmp_path / "run") == [1, 2, 3, 4]


def test_a_run_that_died_between_its_last_checkpoint_and_its_encoder_writes_that(train: Train, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(run_dir, "--stop_after_steps=4")
    encoder = (run_dir / "encoder" / "model.safetensors").read_bytes()
    shutil.rmtree(run_dir / "encoder")
    train(run_dir, "--stop_after_steps=4")
    assert (run_dir / "encoder" / "model.safetensors").read_bytes() == encoder
    assert load_encoder(run_dir / "encoder")[1].step == 4


def test_weights_that_are_not_finite_are_not_saved_when_a_run_is_asked_to_stop(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_step = Trainer.train_step

    def train_step(self: Trainer, batch: Any, *, examine: bool = False) -> Any:
        outcome = make_step(self, batch, examine=examine)
        if batch.step == 6:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("inf"))
            train.stop.asked = True  # type: ignore[attr-defined]  # set by the fixture
        return outcome

    monkeypatch.setattr(Trainer, "train_step", train_step)
    with pytest.raises(NonFiniteError, match="weights of step 7 not finite on rank 0"):
        train(tmp_path / "run", "--metrics.log_every_steps=100")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]
