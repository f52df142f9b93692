"""Programs that are not ours read our shards, and we read theirs."""

import gc
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from foreign_shards import stored_images
from indexing import index
from PIL import Image
from raw_images import encoded, labelled_tree, write_tree

from pipelines.build_shards import main
from pipelines.manifest import open_split

Labelled = dict[bytes, int]
"""Labels by the bytes of the encoded image."""

# The webdataset library and Hugging Face datasets leave closing the tar files to the garbage collector.
leaves_files_open = pytest.mark.filterwarnings("ignore:unclosed file .*tar:ResourceWarning")


@pytest.fixture(autouse=True)
def _collect_in_time() -> Iterator[None]:
    """Else their warnings would come in another test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set made by the builder: two classes, 10 images of train in 3 shards, 4 of test in one."""
    root = tmp_path_factory.mktemp("ours")
    tree = write_tree(root / "photos", labelled_tree(train=5, test=2))
    assert main(["folder", "--source", str(tree), "--output", str(root / "data"), "--max-count", "4"]) == 0
    return root / "data"


def read_by_us(directory: Path, split_name: str = "train") -> Labelled:
    return dict(stored_images(directory, split_name))


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def train_shards(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.glob("train-*.tar"))


@leaves_files_open
def test_the_webdataset_library_reads_our_shards(ours: Path) -> None:
    import webdataset

    read = list(webdataset.WebDataset(train_shards(ours), shardshuffle=False, empty_check=False))
    assert {sample["jpg"]: int(sample["cls"]) for sample in read} == read_by_us(ours)
    assert [sample["__key__"] for sample in read] == [f"train-{number:08d}" for number in range(10)]
    decoded = webdataset.WebDataset(train_shards(ours), shardshuffle=False, empty_check=False).decode("rgb8")
    for ours_bytes, theirs in zip(read_by_us(ours), decoded, strict=True):
        np.testing.assert_array_equal(theirs["jpg"], pixels(ours_bytes))
        assert (theirs["json"]["height"], theirs["json"]["width"]) == theirs["jpg"].shape[:2]


@leaves_files_open
def test_hugging_face_datasets_reads_our_shards(ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    stream = datasets.load_dataset(
        "webdataset", data_files={"train": train_shards(ours)}, split="train", streaming=True, cache_dir=str(tmp_path)
    )
    undecoded = stream.cast_column("jpg", datasets.Image(decode=False))
    assert {row["jpg"]["bytes"]: int(row["cls"]) for row in undecoded} == read_by_us(ours)
    for ours_bytes, row in zip(read_by_us(ours), stream, strict=True):
        np.testing.assert_array_equal(np.asarray(row["jpg"]), pixels(ours_bytes))


@leaves_files_open
def test_timm_reads_our_shards(ours: Path) -> None:
    from timm.data import create_dataset

    dataset = create_dataset(
        "wds/ours",
        root=str(ours),
        split="train-{000000..000002}.tar",
        batch_size=1,
        num_samples=10,
        input_img_mode="RGB",
    )
    read = {np.asarray(image).tobytes(): int(label) for image, label in dataset}
    assert read == {pixels(data).tobytes(): label for data, label in read_by_us(ours).items()}


def like_img2dataset(number: int) -> dict[str, Any]:
    """Keys of five digits for the shard and four within, a caption, and no label."""
    return {
        "__key__": f"{number // 4:05d}{number % 4:04d}",
        "jpg": encoded(number),
        "txt": f"a caption {number}",
        "json": {"caption": f"a caption {number}", "url": "https://example.org", "width": 9, "height": 6},
    }


def like_timm(number: int) -> dict[str, Any]:
    """As in timm/imagenet-1k-wds."""
    key = f"n{number % 3:08d}_{number}"
    return {
        "__key__": key,
        "jpg": encoded(number),
        "cls": number % 3,
        "json": {"label": number % 3, "width": 9, "height": 6, "filename": f"{key}.JPEG"},
    }


def write_theirs(pattern: Path, samples: Iterator[dict[str, Any]]) -> None:
    import webdataset

    pattern.parent.mkdir()
    with webdataset.ShardWriter(str(pattern), maxcount=4, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)


def test_we_read_shards_made_like_those_of_img2dataset(tmp_path: Path) -> None:
    write_theirs(tmp_path / "laion" / "%05d.tar", map(like_img2dataset, range(10)))
    index(tmp_path / "laion")
    assert read_by_us(tmp_path / "laion") == {encoded(number): -1 for number in range(10)}
    assert open_split(tmp_path / "laion", "train").manifest.classes == ()
    assert main(["verify", str(tmp_path / "laion"), "--workers", "1"]) == 0


def test_we_read_shards_made_like_those_of_timm(tmp_path: Path) -> None:
    write_theirs(tmp_path / "wds" / "imagenet1k-train-%04d.tar", map(like_timm, range(10)))
    index(tmp_path / "wds" / "imagenet1k-train-{0000..0002}.tar", output=tmp_path / "i")
    assert read_by_us(tmp_path / "i") == {encoded(number): number % 3 for number in range(10)}
    assert main(["verify", str(tmp_path / "i"), "--workers", "1"]) == 0


def test_the_loader_decodes_foreign_shards(tmp_path: Path) -> None:
    from pipelines.config import DataConfig
    from pipelines.evaluation_loader import evaluation_batches

    images = [encoded(number, "png", height=8, width=8) for number in range(10)]
    made = ({"__key__": f"{number}", "png": image, "cls": number % 3} for number, image in enumerate(images))
    write_theirs(tmp_path / "wds" / "train-%04d.tar", made)
    index(tmp_path / "wds")
    split = open_split(tmp_path / "wds", "train")
    batches = list(evaluation_batches(split, DataConfig(canvas=8), 4, torch.device("cpu")))
    assert torch.cat([batch.label for batch in batches]).tolist() == [number % 3 for number in range(10)]
    canvases = torch.cat([batch.canvas for batch in batches]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(canvases, [pixels(image) for image in images])


@leaves_files_open
def test_our_description_of_a_sample_is_plain_json(ours: Path) -> None:
    import webdataset

    for sample in webdataset.WebDataset(train_shards(ours), shardshuffle=False, empty_check=False):
        described = json.loads(sample["json"])
        assert described["class"] == ("cat", "dog")[int(sample["cls"])]
