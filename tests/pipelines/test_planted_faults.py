"""Every fault that can befall a sample between building and training, planted and counted."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_shards import tiny_shards

from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import SplitIndex, open_split

GLOBAL_BATCH, STEPS = 8, 12
Rewrite = Callable[[bytes], bytes]


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 24), (9, 90, 200)).save(stream, kind)
    return stream.getvalue()


def garbage(image: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(image))


def zeros(image: bytes) -> bytes:
    return bytes(len(image))


def cut(image: bytes) -> bytes:
    return image[: len(image) * 2 // 3] + bytes(len(image) - len(image) * 2 // 3)


def flipped_bits(image: bytes) -> bytes:
    middle = len(image) // 2
    return image[:middle] + bytes(byte ^ 0x5A for byte in image[middle : middle + 4]) + image[middle + 4 :]


def gif(image: bytes) -> bytes:
    return picture("GIF").ljust(len(image), b"\0")[: len(image)]


def text(image: bytes) -> bytes:
    return (b"Not Found " * len(image))[: len(image)]


def another_image(image: bytes) -> bytes:
    return picture("JPEG").ljust(len(image), b"\0")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_shards(
        tmp_path_factory.mktemp("sound") / "data", images_per_class=24, classes=4, side=24, encoding="jpg"
    )


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> Path:
    """A copy to plant faults in."""
    return Path(shutil.copytree(sound, tmp_path / "data"))


def rewrite_images(data: Path, faults: dict[int, Rewrite]) -> None:
    """Change the bytes of samples where they lie."""
    split = open_split(data, "train")
    for sample, change in faults.items():
        record = split.samples[sample]
        with Path(split.shard_location(int(record["shard"]))).open("r+b") as shard:
            shard.seek(int(record["offset"]))
            image = shard.read(int(record["size"]))
            shard.seek(int(record["offset"]))
            assert shard.write(change(image)) == record["size"]


def rewrite_index(data: Path, change: Callable[[np.ndarray], None]) -> None:
    """Change the index, and the manifest with it, so that it is accepted."""
    manifest = json.loads((data / "manifest.json").read_text())
    samples = np.load(data / "train.index.npy")
    change(samples)
    np.save(data / "train.index.npy", samples)
    digest = hashlib.sha256((data / "train.index.npy").read_bytes()).hexdigest()
    manifest["splits"]["train"]["index_sha256"] = digest
    (data / "manifest.json").write_text(json.dumps(manifest))


def trust(data: Path, samples: list[int]) -> None:
    """Let the index hold the checksums of what lies in the shards, as if it had been made of them unseen."""
    split = open_split(data, "train")

    def update(index: np.ndarray) -> None:
        for sample in samples:
            record = index[sample]
            stored = Path(split.shard_location(int(record["shard"]))).read_bytes()
            record["crc32"] = zlib.crc32(stored[int(record["offset"]) :][: int(record["size"])])

    rewrite_index(data, update)
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(manifest | {"pixels_checked": False}))


def train(split: SplitIndex, world_size: int, after_step: Callable[[int], None] = lambda _: None) -> list[list[Batch]]:
    """Batches by rank, all ranks step by step."""
    settings = DataConfig(canvas=24, window_shards=1, bad_sample_budget=0.6, cache="none")
    ranks = [
        training_batches(
            split,
            settings,
            ViewsConfig(size=16),
            Share(global_batch=GLOBAL_BATCH, seed=0, rank=rank, world_size=world_size, last_step=STEPS),
            torch.device("cpu"),
        )
        for rank in range(world_size)
    ]
    found: list[list[Batch]] = [[] for _ in ranks]
    for step in range(STEPS):
        for rank, batches in enumerate(ranks):
            found[rank].append(next(batches))
        after_step(step)
    for batches in ranks:
        batches.close()
    return found


def assert_skipped(found: list[list[Batch]], expected: dict[int, str]) -> None:
    """Exactly these samples were skipped, for these reasons; ranks are in step; no batch holds a sample twice."""
    skips = [skip for batches in found for batch in batches for skip in batch.skipped]
    assert {skip.sample_id: skip.reason for skip in skips} == expected
    world_size = len(found)
    for step, parts in enumerate(zip(*found, strict=True)):
        assert {part.step for part in parts} == {step}
        assert {len(part.canvas) for part in parts} == {GLOBAL_BATCH // world_size}
        ids = torch.cat([part.sample_id for part in parts])
        assert len(ids.unique()) == GLOBAL_BATCH
        assert not set(ids.tolist()) & expected.keys()


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("change", [garbage, zeros, cut, flipped_bits, gif, text, another_image])
def test_bytes_that_changed_since_they_were_indexed_fail_their_checksum(
    data: Path, change: Rewrite, world_size: int
) -> None:
    rewrite_images(data, {17: change, 60: change})
    assert_skipped(train(open_split(data, "train"), world_size), {17: "checksum", 60: "checksum"})


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("change", [garbage, zeros, cut, text, gif])
def test_bytes_that_were_indexed_as_they_are_but_make_no_image_are_undecodable(
    data: Path, change: Rewrite, world_size: int
) -> None:
    rewrite_images(data, {17: change, 60: change})
    trust(data, [17, 60])
    assert_skipped(train(open_split(data, "train"), world_size), {17: "undecodable", 60: "undecodable"})


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_image_that_would_fill_the_memory_is_not_decoded(data: Path, world_size: int) -> None:
    def enlarge(index: np.ndarray) -> None:
        index["height"][[17, 60]] = 60_000
        index["width"][[17, 60]] = 60_000

    rewrite_index(data, enlarge)
    assert_skipped(train(open_split(data, "train"), world_size), {17: "too_large", 60: "too_large"})


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stale_index_pairs_nothing_wrongly(data: Path, world_size: int) -> None:
    def shift(index: np.ndarray) -> None:
        index["offset"][30:35] += 512

    rewrite_index(data, shift)
    assert_skipped(train(open_split(data, "train"), world_size), dict.fromkeys(range(30, 35), "checksum"))


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_shard_that_shrinks_while_it_is_in_use_loses_what_lay_behind_the_cut(data: Path, world_size: int) -> None:
    split = open_split(data, "train")
    first_lost = 80
    last_offset = int(split.samples[first_lost]["offset"]) + 5
    seen: set[int] = set()

    def shrink(step: int) -> None:
        if step == 0:
            os.truncate(split.shard_location(1), last_offset)

    found = train(split, world_size, after_step=shrink)
    for batches in found:
        seen |= set(batches[0].sample_id.tolist())
    lost = set(range(first_lost, 96)) - seen
    skips = {skip.sample_id: skip.reason for batches in found for batch in batches for skip in batch.skipped}
    assert set(skips.values()) == {"truncated"}
    assert lost <= skips.keys() <= set(range(first_lost, 96))


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_shard_that_cannot_be_opened_is_unreadable(data: Path, world_size: int) -> None:
    split = open_split(data, "train")
    shard = Path(split.shard_location(1))
    shard.unlink()
    shard.mkdir()  # a directory cannot be read, not even by root
    found = train(split, world_size)
    skips = {skip.sample_id: skip.reason for batches in found for batch in batches for skip in batch.skipped}
    assert skips == dict.fromkeys(range(48, 96), "unreadable")


@pytest.mark.parametrize("world_size", [1, 2])
def test_all_faults_at_once_are_told_apart(data: Path, world_size: int) -> None:
    undecodable: dict[int, Rewrite] = {3: garbage, 14: zeros, 25: cut, 36: text}
    changed: dict[int, Rewrite] = {47: garbage, 58: flipped_bits, 69: cut, 70: another_image}

    def enlarge(index: np.ndarray) -> None:
        index["height"][81], index["width"][81] = 30_000, 30_000

    rewrite_images(data, undecodable)
    trust(data, list(undecodable))
    rewrite_index(data, enlarge)
    rewrite_images(data, changed)
    expected = dict.fromkeys(undecodable, "undecodable") | dict.fromkeys(changed, "checksum") | {81: "too_large"}
    assert_skipped(train(open_split(data, "train"), world_size), expected)


PROGRAM = """
import sys, torch
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Share, training_batches
from pipelines.manifest import open_split
data = DataConfig(canvas=24, cache="none", bad_sample_budget=0.6)
for seed in range(40):
    share = Share(global_batch=64, seed=seed, last_step=1)
    split = open_split(sys.argv[1], "train")
    for batch in training_batches(split, data, ViewsConfig(size=16), share, torch.device("cpu")):
        print(len(batch.skipped), len(batch.canvas))
"""


def test_an_image_without_a_valid_header_never_crashes_the_process(tmp_path: Path) -> None:
    """Fed to DALI among many others it does, more often than not."""
    data = tiny_shards(tmp_path / "data", images_per_class=80, classes=4, side=24, encoding="jpg")
    bad = range(0, 320, 8)
    rewrite_images(data, {sample: (garbage, zeros, text)[sample % 3] for sample in bad})
    trust(data, list(bad))
    ran = subprocess.run([sys.executable, "-c", PROGRAM, data], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    skipped, images = zip(*(map(int, line.split()) for line in ran.stdout.splitlines()), strict=True)
    assert len(skipped) == 40
    assert min(skipped) > 0
    assert set(images) == {64}


def test_replacements_do_not_depend_on_the_number_of_ranks(data: Path) -> None:
    rewrite_images(data, dict.fromkeys(range(5, 90, 7), garbage))
    split = open_split(data, "train")
    runs = [train(split, world_size) for world_size in (1, 2, 4)]
    ids = [[torch.cat([part.sample_id for part in parts]) for parts in zip(*run, strict=True)] for run in runs]
    for one, other in pairwise(ids):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
