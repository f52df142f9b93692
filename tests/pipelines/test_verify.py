"""Verification finds whatever is wrong, and names it."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from raw_images import encoded, labelled_tree, write_tree

from pipelines.build.build_options import BuildOptions
from pipelines.build.builder import build
from pipelines.build_shards import main
from pipelines.manifest import INDEX_DTYPE, IndexArray, read_manifest, write_manifest

SHARD, INDEX = "train-000001.tar", "train.index.npy"
KEY = "train-00000004"  # the first sample of that shard


@pytest.fixture
def output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    tree = write_tree(tmp_path / "photos", labelled_tree(train=5, test=2))
    build(BuildOptions(kind="folder", source=tree, output=tmp_path / "out", max_count=4, workers=1))
    capsys.readouterr()
    return tmp_path / "out"


def faults(output: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines about faults; checks the rest of what is printed."""
    assert main(["verify", str(output)]) == 1
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if not line.startswith(("train: ", "test: "))]
    assert lines[-1] == "test: 4 samples in 1 shards, 0 faults"
    assert lines[-2] == f"train: 10 samples in 3 shards, {len(found)} faults"
    return found


def change_record(output: Path, change: Callable[[IndexArray], None]) -> None:
    """Change the index and make the manifest agree, as a faulty builder would."""
    records = np.load(output / INDEX)
    change(records)
    np.save(output / INDEX, records)
    manifest = read_manifest(output)
    digest = hashlib.sha256((output / INDEX).read_bytes()).hexdigest()
    split = replace(manifest.splits["train"], index_sha256=digest)
    write_manifest(output, replace(manifest, splits={**manifest.splits, "train": split}))


def change_shard(output: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    """Rewrite a shard with each member's name and content changed, and make the manifest agree."""
    buffer = io.BytesIO()
    with tarfile.open(output / SHARD) as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old:
            stream = old.extractfile(member)
            assert stream is not None
            if changed := change(member.name, stream.read()):
                member.name, content = changed
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    data = buffer.getvalue()
    (output / SHARD).write_bytes(data)
    manifest = read_manifest(output)
    split = manifest.splits["train"]
    shards = list(split.shards)
    shards[1] = replace(shards[1], bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    write_manifest(output, replace(manifest, splits={**manifest.splits, "train": replace(split, shards=tuple(shards))}))


def test_a_fresh_data_set_is_ok(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(output)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train: 10 samples in 3 shards, 0 faults",
        "test: 4 samples in 1 shards, 0 faults",
        "ok",
    ]


def test_what_is_no_data_set_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "not a data set directory" in capsys.readouterr().err


def test_a_flipped_bit_in_an_image_is_found_with_its_sample(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((output / SHARD).read_bytes())
    data[int(np.load(output / INDEX)[4]["offset"]) + 300] ^= 1
    (output / SHARD).write_bytes(data)
    found = faults(output, capsys)
    assert found[0] == f"{SHARD}: sha256 differs from manifest.json"
    assert found[1].startswith(f"{SHARD}: {KEY}: crc32 ")


def test_every_single_flipped_bit_of_a_shard_is_found(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (output / SHARD).read_bytes()
    for place in range(0, len(data), len(data) // 12):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        (output / SHARD).write_bytes(damaged)
        assert f"{SHARD}: sha256 differs from manifest.json" in faults(output, capsys)


@pytest.mark.parametrize("length", [0, 100, 512, 1024, 2500, 6000])
def test_a_cut_shard_is_found(output: Path, capsys: pytest.CaptureFixture[str], length: int) -> None:
    (output / SHARD).write_bytes((output / SHARD).read_bytes()[:length])
    found = faults(output, capsys)
    assert found[0] == f"{SHARD}: {length} bytes, manifest.json says 20480"
    assert any("the index has 4" in line for line in found)


@pytest.mark.parametrize("name", [SHARD, "train-000001.idx", INDEX])
def test_a_missing_file_is_found(output: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (output / name).unlink()
    assert [line for line in faults(output, capsys) if line.startswith(name) and "No such file" in line]


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("offset", 1, "offset 1536, the index says 1"),
        ("size", 1, ", the index says 1"),
        ("crc32", 1, ", the index says 1"),
        ("label", 7, ", the index says 7"),
        ("height", 7, "height x width 6 x 9, the index says 7 x 9"),
        ("width", 7, "height x width 6 x 9, the index says 6 x 7"),
    ],
)
def test_a_wrong_field_of_a_record_is_found(
    output: Path, capsys: pytest.CaptureFixture[str], field: str, value: int, what: str
) -> None:
    def change(records: IndexArray) -> None:
        records[field][4] = value

    change_record(output, change)
    found = faults(output, capsys)
    assert found[0].startswith(f"{SHARD}: {KEY}: ")
    assert what in found[0]


def test_two_swapped_records_are_found(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(records: IndexArray) -> None:
        records[[4, 5]] = records[[5, 4]]

    change_record(output, change)
    found = faults(output, capsys)
    assert {line.split(": ")[1] for line in found} == {"train-00000004", "train-00000005"}


def test_an_index_in_another_order_than_the_shards_is_found(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(records: IndexArray) -> None:
        records[:] = np.concatenate([records[4:], records[:4]])

    change_record(output, change)
    assert faults(output, capsys) == [f"{INDEX}: samples are not in the order of the shards"]


def test_an_index_of_another_kind_is_found(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(output / INDEX, np.zeros(10))
    assert faults(output, capsys) == [f"{INDEX}: not an index"]
    np.save(output / INDEX, np.zeros(9, dtype=INDEX_DTYPE))
    assert faults(output, capsys)[:2] == [
        f"{INDEX}: sha256 differs from manifest.json",
        f"{INDEX}: 9 samples, manifest.json says 10",
    ]


@pytest.mark.parametrize(
    ("suffix", "content", "what"),
    [
        (".cls", b"x", "label x, the index says "),
        (".cls", None, "no label, the index says "),
        (".json", b"{}", "its json does not agree with the index"),
        (".json", None, "its json does not agree with the index"),
        (".jpg", None, "0 images, expected one"),
        (".jpg", encoded(1)[:200], "bad image: "),
        (".jpg", encoded(1, "png"), "the image is a png, its name says jpg"),
        (".jpg", encoded(1, height=9, width=6), "height x width 9 x 6, the index says 6 x 9"),
    ],
)
def test_a_wrong_member_is_found_with_its_sample(
    output: Path, capsys: pytest.CaptureFixture[str], suffix: str, content: bytes | None, what: str
) -> None:
    def change(name: str, old: bytes) -> tuple[str, bytes] | None:
        if name != KEY + suffix:
            return name, old
        return None if content is None else (name, content)

    change_shard(output, change)
    found = faults(output, capsys)
    assert any(line.startswith(f"{SHARD}: {KEY}: {what}") for line in found)
    stale_idx = content is None or suffix != ".cls"  # else all sizes are as before
    assert any(line.startswith("train-000001.idx: ") for line in found) == stale_idx


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("v1.2 4", "v1.1 4", "begins with 'v1.1 4', expected 'v1.2 4'"),
        ("jpg 1536", "jpg 1537", f"{KEY}: members or offsets are not those of the shard"),
        ("train-00000007.jpg", "train-00000006.jpg", "train-00000007: members or offsets are not those of the shard"),
    ],
)
def test_a_stale_idx_is_found(output: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, what: str) -> None:
    path = output / "train-000001.idx"
    path.write_text(path.read_text().replace(old, new))
    assert faults(output, capsys) == [f"{path.name}: {what}"]


def test_a_shortened_idx_is_found(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = output / "train-000001.idx"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    assert faults(output, capsys) == [f"{path.name}: 3 samples, the shard has 4"]


@pytest.mark.parametrize("statistics", [{"mean": [0.1] * 3, "std": [0.2] * 3}, {}, {"mean": "x", "std": [1]}])
def test_foreign_statistics_are_found(
    output: Path, capsys: pytest.CaptureFixture[str], statistics: dict[str, object]
) -> None:
    content = json.loads((output / "manifest.json").read_text())
    (output / "manifest.json").write_text(json.dumps({**content, "statistics": statistics}))
    assert faults(output, capsys) == ["manifest.json: statistics are not those of the train split"]
