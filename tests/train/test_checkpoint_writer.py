"""Checkpoints are written beside the training, from a copy, and a disk that refuses them is told of and tried again."""

import errno
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from model.config import EncoderConfig, HeadConfig
from model.encoder_file import load_encoder
from model.simclr import SimCLR
from train import checkpoint_writer as writer_module
from train.checkpoint import load_latest
from train.checkpoint_writer import CheckpointWriter, Written, bytes_of, copied
from train.config import CheckpointConfig, PretrainConfig
from train.ranks import OtherRankError, Ranks
from train.run_saver import RunSaver
from train.stop_request import StopRequest

PATIENCE = 20.0
"""Seconds in which a thread surely comes to its turn."""


@pytest.fixture
def told() -> list[Written]:
    return []


@pytest.fixture
def writer(told: list[Written]) -> CheckpointWriter:
    return CheckpointWriter(device=torch.device("cpu"), told=told.append)


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_begin_does_not_wait_for_the_disk_but_the_next_one_waits_for_its_end(
    writer: CheckpointWriter, told: list[Written]
) -> None:
    disk, done = threading.Event(), []

    def slowly() -> None:
        assert disk.wait(PATIENCE)
        done.append(1)

    writer.begin(1, 100, slowly)
    assert not done
    writer.collect()  # does not wait either
    assert told == []
    threading.Timer(0.05, disk.set).start()
    writer.begin(2, 200, lambda: done.append(2))
    assert done[0] == 1
    assert [one.step for one in told] == [1]
    writer.finish()
    assert done == [1, 2]
    assert [(one.step, one.bytes, one.error) for one in told] == [(1, 100, None), (2, 200, None)]
    assert told[0].seconds > told[1].seconds >= 0
    writer.finish()
    assert len(told) == 2


def test_collect_takes_note_of_what_has_been_written_in_the_meantime(
    writer: CheckpointWriter, told: list[Written]
) -> None:
    writer.collect()
    written = threading.Event()
    writer.begin(3, 1, written.set)
    assert written.wait(PATIENCE)
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join(PATIENCE)
    writer.collect()
    assert [(one.step, one.error) for one in told] == [(3, None)]


def test_failures_of_the_disk_are_counted_until_one_succeeds(
    writer: CheckpointWriter, told: list[Written], caplog: pytest.LogCaptureFixture
) -> None:
    for step in (5, 10):
        writer.begin(step, 1, full)
    writer.finish()
    assert writer.failures == 2
    assert "No space left on device" in writer.last_error
    assert [(one.step, one.error) for one in told] == [(5, writer.last_error), (10, writer.last_error)]
    assert "the checkpoint of step 10 could not be written ([Errno 28] No space left on device)" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.ERROR]
    writer.begin(15, 1, lambda: None)
    writer.finish()
    assert (writer.failures, told[-1].step, told[-1].error) == (0, 15, None)
    writer.begin(20, 1, full)
    writer.finish()
    assert (writer.failures, told[-1].step) == (1, 20)


def test_a_fault_that_is_not_the_disks_is_raised_in_the_caller_once(
    writer: CheckpointWriter, told: list[Written]
) -> None:
    def mistaken() -> None:
        raise ZeroDivisionError("ours")

    writer.begin(1, 1, mistaken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        writer.finish()
    writer.begin(2, 1, lambda: None)
    writer.finish()
    assert [(one.step, one.error) for one in told] == [(2, None)]


def test_another_attempt_is_wanted_after_the_pause_and_only_after_a_failure(
    writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(writer_module, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=lambda: now))
    assert not writer.wants_retry(0)
    writer.begin(1, 1, full)
    assert not writer.wants_retry(0)  # it is under way
    writer.finish()
    assert writer.wants_retry(0)
    now += 59.9
    assert not writer.wants_retry(60)
    now += 0.1
    assert writer.wants_retry(60)
    writer.begin(2, 1, lambda: None)
    writer.finish()
    assert not writer.wants_retry(0)


def test_a_copy_has_memory_of_its_own_and_the_same_layout() -> None:
    tensors = {"a": torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last), "b": nn.Parameter(torch.zeros(2))}
    copies = copied(tensors)
    tensors["a"].zero_()
    assert copies["a"].min() == 1
    assert copies["a"].is_contiguous(memory_format=torch.channels_last)
    assert not copies["b"].requires_grad
    assert bytes_of(tensors, copies) == 2 * (96 * 4 + 8)


def saver_in(run_dir: Path, told: list[Written], **settings: Any) -> tuple[RunSaver, SimCLR]:
    """Of a run without data, whose trainer holds only what is saved."""
    torch.manual_seed(0)
    encoder = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)
    config = PretrainConfig(
        run_dir=str(run_dir), encoder=encoder, head=HeadConfig(dim=8), checkpoint=CheckpointConfig(**settings)
    )
    model = SimCLR(encoder, config.head, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    trainer = SimpleNamespace(
        config=config,
        accelerator=SimpleNamespace(device=torch.device("cpu"), scaler=None),
        optimizer=SimpleNamespace(optimizer=optimizer),
        probe=None,
        watch=SimpleNamespace(skipped_updates=2),
        left_out=frozenset({9, 4}),
        last_probe_top1=0.25,
        steps_per_epoch=4,
    )
    split = SimpleNamespace(manifest=SimpleNamespace(fingerprint="f", name="tiny"))
    run_dir.mkdir()
    ranks = Ranks()
    saver = RunSaver(
        split=cast("Any", split), trainer=cast("Any", trainer), model=model, ranks=ranks, change=0, told=told.append
    )
    return saver, model


def test_what_is_written_is_the_moment_of_begin_whatever_is_learnt_meanwhile(
    tmp_path: Path, told: list[Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, model = saver_in(tmp_path / "run", told)
    wanted = copied(model.state_dict())
    momentum = saver.trainer.optimizer.optimizer.state[model.encoder.conv1.weight]["momentum_buffer"]
    disk, save_file = threading.Event(), safetensors.torch.save_file

    def slowly(tensors: Any, path: Path) -> None:
        assert disk.wait(PATIENCE)
        save_file(tensors, path)

    monkeypatch.setattr("train.checkpoint.save_file", slowly)
    saver.begin(7)
    with torch.no_grad():
        for tensor in (*model.state_dict().values(), momentum):
            tensor.zero_()
    saver.trainer.left_out = frozenset()
    disk.set()
    saver.writer.finish()
    loaded = load_latest(tmp_path / "run" / "checkpoints")
    assert loaded is not None
    assert all(torch.equal(loaded.model[name], tensor) for name, tensor in wanted.items())
    assert loaded.optimizer["encoder.conv1.weight/momentum_buffer"].min() == 1
    assert (loaded.step, loaded.state.left_out, loaded.state.skipped_updates) == (7, (4, 9), 2)
    assert loaded.state.probe_top1 == 0.25
    encoder, description = load_encoder(tmp_path / "run" / "encoder")
    assert description.step == 7
    assert torch.equal(encoder.conv1.weight, wanted["encoder.conv1.weight"])
    assert told[0].bytes == bytes_of(loaded.model, loaded.optimizer, loaded.probe)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("train.checkpoint.save_file", SafetensorError("I/O error: Input/output error (os error 5)")),
        ("train.checkpoint.sync", OSError(errno.EIO, os.strerror(errno.EIO))),
        ("model.encoder_file.save_file", SafetensorError("I/O error: Input/output error (os error 5)")),
        ("model.encoder_file._sync", OSError(errno.EIO, os.strerror(errno.EIO))),
    ],
)
def test_after_an_input_output_error_the_one_before_is_untouched_and_the_next_is_written(
    tmp_path: Path, told: list[Written], monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    saver, _ = saver_in(tmp_path / "run", told, retry_seconds=0, max_failures=2)
    saver.begin(5)
    saver.writer.finish()

    def refuse(*_: Any) -> None:
        raise error

    for failures in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(place, refuse)
            saver.begin(10)
            saver.writer.finish()
        assert saver.writer.failures == failures
        assert saver.wants_retry
        assert saver.gave_up == (failures == 2)
        assert "Input/output error" in str(told[-1].error)
        assert not [*(tmp_path / "run").rglob("*partial*")]  # their room is given back
        loaded = load_latest(tmp_path / "run" / "checkpoints")
        assert loaded is not None
        assert loaded.step == (5 if place.startswith("train") else 10)
        assert load_encoder(tmp_path / "run" / "encoder")[1].step == 5
    saver.begin(15)
    saver.writer.finish()
    assert (told[-1].step, told[-1].error, saver.wants_retry) == (15, None, False)
    assert load_encoder(tmp_path / "run" / "encoder")[1].step == 15


def test_at_its_end_a_run_tries_until_it_is_saved_or_has_failed_too_often(
    tmp_path: Path, told: list[Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, _ = saver_in(tmp_path / "run", told, retry_seconds=0, max_failures=3)
    stop = cast("StopRequest", SimpleNamespace(asked=False))
    assert saver.finish(0, stop, stopping=False)  # nothing has begun
    assert not told
    (tmp_path / "run").rename(tmp_path / "gone")
    with pytest.raises(OtherRankError, match="3 attempts to write a checkpoint failed one after another") as raised:
        saver.finish(5, stop, stopping=False)
    assert "\n" not in str(raised.value)
    assert len(told) == 3
    saver = replace(saver, saved_step=-1)
    monkeypatch.setattr(RunSaver, "_pause", lambda *_, **__: (tmp_path / "gone").rename(tmp_path / "run"))
    assert saver.finish(5, stop, stopping=False)
    assert [one.error is None for one in told] == [False, False, False, False, True]


def test_a_run_that_is_asked_to_stop_gives_up_after_three_attempts_without_raising(
    tmp_path: Path, told: list[Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, _ = saver_in(tmp_path / "run", told)
    monkeypatch.setattr("train.run_saver._PAUSE_SECONDS", 0)
    (tmp_path / "run").rename(tmp_path / "gone")
    assert not saver.finish(5, cast("StopRequest", SimpleNamespace(asked=True)), stopping=True)
    assert len(told) == 3
