"""A SimCLR training as a benchmark meets it, ours or a peer's: timed, or let learn to its end.

A training is begun by a function that `ops.bench.training_ours` and `ops.bench.training_peers` have, named by
MODULE:FUNCTION, in a process of its own.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.description import EncoderDescription
from model.encoder_file import save_encoder
from ops.bench.memory import memory_bytes
from train.config import load_config

Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Training:
    """About to begin."""

    encoder: nn.Module
    """Of timm, with plain BatchNorm."""
    mean: Colour
    """How it wants its input: (pixels in [0, 1] - mean) / std."""
    std: Colour
    updates: Iterator[int]
    """Number of images of each update, after it, to the end of the schedule."""


def timed_updates(begin: str, threads: int, options: dict[str, Any]) -> Iterator[int]:
    """Images of each update, one update late on GPUs, where the host runs ahead."""
    torch.set_num_threads(threads)
    before = None
    for images in _begin(begin, options).updates:
        if torch.cuda.is_available():
            if before is not None:
                before.synchronize()
            before = torch.cuda.Event()
            before.record()
        yield images


def learn(begin: str, threads: int, options: dict[str, Any], steps_per_epoch: int, output: str) -> None:
    """Learn to the end, and leave OUTPUT/epoch-N/, an encoder and its clock.json, for each epoch.

    clock.json has `seconds` of training so far, from the first update's batch on and without writing, and
    `memory_bytes`.
    """
    torch.set_num_threads(threads)
    config = load_config(Path(options["config"]))
    training = _begin(begin, options)
    began, seconds = time.perf_counter(), 0.0
    for step, _ in enumerate(training.updates, 1):
        if step % steps_per_epoch:
            continue
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds += time.perf_counter() - began
        directory = Path(output) / f"epoch-{step // steps_per_epoch:03d}"
        directory.mkdir(parents=True, exist_ok=True)
        description = EncoderDescription(
            encoder=config.encoder,
            image_size=config.views.size,
            mean=training.mean,
            std=training.std,
            data_name="",
            data_fingerprint="",
            config_sha256="",
            step=step,
            images_seen=step * config.global_batch,
        )
        save_encoder(directory / "encoder", training.encoder.state_dict(), description)
        clock = {"seconds": seconds, "memory_bytes": memory_bytes(os.getpid())}
        (directory / "clock.json").write_text(json.dumps(clock))
        began = time.perf_counter()


def _begin(begin: str, options: dict[str, Any]) -> Training:
    module, _, name = begin.partition(":")
    training: Training = getattr(import_module(module), name)(**options)
    return training
