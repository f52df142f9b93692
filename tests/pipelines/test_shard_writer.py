"""What stands in the shards, and where."""

import gc
import importlib
import json
import tarfile
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pytest
import webdataset
from PIL import Image
from raw_images import encoded, labelled_tree, write_tree

from pipelines.build.build_options import BuildOptions
from pipelines.build.builder import build
from pipelines.build.shard_plan import PlanOptions, plan_shards
from pipelines.build.sources import folder_source
from pipelines.build_shards import main
from pipelines.manifest import UNLABELLED, open_split, read_manifest


def built(output: Path, source: Path, **options: int | str) -> Path:
    build(BuildOptions(kind="folder", source=source, output=output, workers=1, **options))  # type: ignore[arg-type]
    return output


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "photos", labelled_tree(train=5, test=2))


def test_every_record_points_at_the_bytes_of_its_image(tmp_path: Path, tree: Path) -> None:
    output = built(tmp_path / "out", tree, max_count=4)
    for name in ("train", "test"):
        split = open_split(output, name)
        assert max(split.samples_per_shard) <= 4
        stored = []
        for record in split.samples:
            shard = (output / split.shards[record["shard"]].file).read_bytes()
            image = shard[record["offset"] : record["offset"] + record["size"]]
            assert crc32(image) == record["crc32"]
            assert (record["height"], record["width"]) == (6, 9)
            stored.append((split.manifest.classes[record["label"]], image))
        raw = [(path.parent.name, path.read_bytes()) for path in (tree / name).rglob("*.jpg")]
        assert sorted(stored) == sorted(raw)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the library does not close its shards
def test_the_webdataset_library_reads_every_sample_with_its_label(tmp_path: Path, tree: Path) -> None:
    output = built(tmp_path / "out", tree, max_count=4)
    shards = sorted(str(path) for path in output.glob("train-*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"train-{position:08d}" for position in range(10)]
    for sample in samples:
        name = sample["json"]["name"]
        assert (
            sample["cls"] == ["cat", "dog"].index(sample["json"]["class"]) == ["cat", "dog"].index(name.split("/")[1])
        )
        assert sample["jpg"].size == (sample["json"]["width"], sample["json"]["height"]) == (9, 6)
        assert np.array_equal(sample["jpg"], pixels(tree / name))
    del samples
    gc.collect()  # while its warnings are ignored


def test_the_idx_is_the_one_that_dali_makes(tmp_path: Path, tree: Path) -> None:
    index_creator = importlib.import_module("wds2idx").IndexCreator  # comes with DALI, without types
    output = built(tmp_path / "out", tree, max_count=4)
    for shard in output.glob("*.tar"):
        with index_creator(str(shard), str(tmp_path / "dali.idx"), verbose=False) as creator:
            creator.create_index()
        assert shard.with_suffix(".idx").read_bytes() == (tmp_path / "dali.idx").read_bytes()


def test_the_seed_makes_the_order(tmp_path: Path, tree: Path) -> None:
    orders = []
    for seed in (0, 1):
        split = open_split(built(tmp_path / str(seed), tree, seed=seed), "train")
        orders.append(split.samples["crc32"].tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert not (np.diff(split.samples["label"]) >= 0).all()


@pytest.mark.parametrize("max_size", [1, 15_000, 20_000, 1_000_000])
def test_no_shard_exceeds_the_size_or_the_count_unless_it_is_a_single_sample(
    tmp_path: Path, tree: Path, max_size: int
) -> None:
    manifest = read_manifest(built(tmp_path / "out", tree, max_size=max_size, max_count=6))
    shards = manifest.splits["train"].shards
    assert sum(shard.samples for shard in shards) == 10
    assert all(shard.samples == 1 or (shard.bytes <= max_size and shard.samples <= 6) for shard in shards)
    assert len(shards) == {1: 10, 1_000_000: 2}.get(max_size, len(shards))


def test_a_plan_holds_each_item_once_in_numbered_shards(tmp_path: Path, tree: Path) -> None:
    source = folder_source(tree, tmp_path / "spool")
    plans = plan_shards(source, "train", PlanOptions(seed=5, max_count=3))
    assert [(plan.number, plan.first, len(plan.rows)) for plan in plans] == [
        (0, 0, 3),
        (1, 3, 3),
        (2, 6, 3),
        (3, 9, 1),
    ]
    planned = [source.items[row] for plan in plans for row in plan.rows]
    assert sorted(planned, key=lambda item: item.name) == [item for item in source.items if item.split == "train"]


def test_the_format_decides_the_extension_and_orientation_the_height(tmp_path: Path) -> None:
    tree = {"1.png": encoded(1, "jpeg"), "2.jpg": encoded(2, "png"), "3.jpg": encoded(3, "jpeg", orientation=6)}
    output = built(tmp_path / "out", write_tree(tmp_path / "flat", tree))
    with tarfile.open(output / "train-000000.tar") as shard:
        content = {member.name: shard.extractfile(member).read() for member in shard}  # type: ignore[union-attr]
    assert sorted(content.values()) == sorted([*tree.values(), *(v for k, v in content.items() if k.endswith("json"))])
    described = [json.loads(value) for name, value in content.items() if name.endswith(".json")]
    assert sorted(described, key=lambda each: each["name"]) == [
        {"name": "1.png", "height": 6, "width": 9},
        {"name": "2.jpg", "height": 6, "width": 9},
        {"name": "3.jpg", "height": 9, "width": 6},
    ]
    extension = {name: value for name, value in content.items() if not name.endswith(".json")}
    assert {value: name.rpartition(".")[2] for name, value in extension.items()} == {
        tree["1.png"]: "jpg",
        tree["2.jpg"]: "png",
        tree["3.jpg"]: "jpg",
    }


def test_unlabelled_images_have_no_classes(tmp_path: Path) -> None:
    output = built(tmp_path / "out", write_tree(tmp_path / "flat", {"1.jpg": encoded(1), "2.jpg": encoded(2)}))
    split = open_split(output, "train")
    assert split.manifest.classes == ()
    assert split.samples["label"].tolist() == [UNLABELLED, UNLABELLED]
    assert main(["verify", str(output)]) == 0
