"""Fixtures that several tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from rank_pool import RankPool
from remote_servers import s3_server  # noqa: F401  # a fixture
from tiny_shards import tiny_shards

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# Children of tests find the project and its fixtures as an installed user would.
os.environ.setdefault("PYTHONSAFEPATH", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two cores, several processes: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _new_accelerator() -> None:
    """Accelerate holds a process to the precision that it had first; each test is to be like a process of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    pool = RankPool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[RankPool]:
    pool = RankPool(4)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small labelled data set of 32x32 images: 4 classes, 64 images in each of train and test."""
    return tiny_shards(tmp_path_factory.mktemp("shards") / "data", images_per_class=16, classes=4, side=32)


@pytest.fixture(scope="session")
def imagenet_mini() -> Path:
    """ImageNet's official files with a few of its images; DIPTYCH_SHARED_DATA names the directory that holds them."""
    directory = Path(os.environ.get("DIPTYCH_SHARED_DATA", SHARED_DATA)) / "imagenet-mini"
    if not directory.is_dir():
        pytest.skip(f"{directory} is not here")
    return directory
