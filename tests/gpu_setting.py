"""What the tests in gpu/ share: when they are skipped, a small run, and a device that lags or may not be waited for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from model.config import EncoderConfig, HeadConfig
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import open_split
from pipelines.prefetch import Prefetch
from train.build import build
from train.config import OptimizerConfig, PretrainConfig
from train.distributed import make_accelerator
from train.trainer import Trainer

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
IMAGES = 16

needs_one = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
needs_two = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")]


def small_run(shards: Path, **changes: Any) -> PretrainConfig:
    config = PretrainConfig(
        data=DataConfig(dir=str(shards), canvas=32),
        views=ViewsConfig(size=32),
        encoder=EncoderConfig(name="resnet18", stem="cifar", width=0.25),
        head=HeadConfig(dim=16),
        optimizer=OptimizerConfig(base_lr=0.2),
        global_batch=IMAGES,
    )
    return replace(config, **changes)


def trainer_of(config: PretrainConfig) -> tuple[Trainer, Any]:
    AcceleratorState._reset_state(reset_partial_state=True)  # a process is meant to have one precision only
    return build(config, open_split(config.data.dir, "train"), make_accelerator(config))


def batches_of(config: PretrainConfig, steps: int) -> list[Batch]:
    """Ready on the device; after warm-up, so that the rate is not 0."""
    share = Share(global_batch=config.global_batch, seed=0, first_step=50, last_step=50 + steps)
    split = open_split(config.data.dir, "train")
    with Prefetch(training_batches(split, config.data, config.views, share, CUDA), depth=steps) as ahead:
        return list(ahead)  # the loader's own thread may wait; the step may not


@contextmanager
def tf32_allowed() -> Iterator[None]:
    """As in a run with tf32 = true, which nothing inside may change for others.

    monkeypatch cannot put these switches back: to it they are no attributes.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (True, True)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def keep_device_busy() -> None:
    """Some tens of milliseconds, for what is asked of the current stream from now on."""
    torch.cuda._sleep(50_000_000)  # cycles


@contextmanager
def nothing_may_wait() -> Iterator[None]:
    """Whatever waits for the device raises RuntimeError."""
    with warnings.catch_warnings():
        # Said once when the mode is set, which is done all the same: as an error it would leave the mode on.
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype feature")
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
