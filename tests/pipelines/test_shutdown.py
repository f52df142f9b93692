"""The loader leaves nothing behind: no thread of Python's or DALI's, no open shard, no process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.config import DataConfig, ViewsConfig
from pipelines.errors import DataError
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import open_split
from pipelines.prefetch import Prefetch

PROGRAM = """
import sys, torch
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Share, training_batches
from pipelines.manifest import open_split
from pipelines.prefetch import Prefetch
batches = training_batches(open_split(sys.argv[1], "train"), DataConfig(canvas=32, cache="none"), ViewsConfig(size=16),
                           Share(global_batch=8, seed=0, last_step=10**6), torch.device("cpu"))
with Prefetch(batches, depth=2) as ahead:
    for batch in ahead:
        print(batch.step, flush=True)
"""


def batches(directory: Path, last_step: int) -> Iterator[Batch]:
    share = Share(global_batch=8, seed=0, last_step=last_step)
    data = DataConfig(canvas=32, cache="none", decode_threads=2, bad_sample_budget=0.0)
    return training_batches(open_split(directory, "train"), data, ViewsConfig(size=16), share, torch.device("cpu"))


def threads_and_shards() -> tuple[int, list[str]]:
    files = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    threads = len(list(Path("/proc/self/task").iterdir()))
    return threads, sorted(file for file in files if file.endswith(".tar"))


def soon(expected: tuple[int, list[str]]) -> bool:
    """Whether no more is there within two seconds: a joined thread may live on in the kernel for a moment."""
    deadline = time.monotonic() + 2
    while threads_and_shards() > expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return threads_and_shards() <= expected


@pytest.fixture
def before(shards: Path) -> tuple[int, list[str]]:
    """What there is once libraries have started the threads that they keep."""
    with Prefetch(batches(shards, 2), depth=2) as ahead:
        assert len(list(ahead)) == 2
    time.sleep(0.1)
    return threads_and_shards()


def test_nothing_is_left_at_the_end(shards: Path, before: tuple[int, list[str]]) -> None:
    with Prefetch(batches(shards, 8), depth=2) as ahead:
        assert len(list(ahead)) == 8
    assert soon(before)


def test_nothing_is_left_when_training_fails(shards: Path, before: tuple[int, list[str]]) -> None:
    with pytest.raises(ValueError, match="training failed"), Prefetch(batches(shards, 1000), depth=2) as ahead:
        for _ in ahead:
            raise ValueError("training failed")
    assert soon(before)


def test_nothing_is_left_when_the_loader_fails(
    shards: Path, before: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.store.crc32", lambda _: 0)
    with pytest.raises(DataError, match=r"are damaged \(1 checksum\)"), Prefetch(batches(shards, 8), depth=2) as ahead:
        list(ahead)
    assert soon(before)


def test_a_process_ends_at_once_when_it_is_interrupted(shards: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, shards], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        while int(child.stdout.readline()) < 5:
            pass
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=10)
    assert child.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
