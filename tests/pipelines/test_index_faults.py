"""Whatever is wrong with a sample or a shard is named, and left out or refused."""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from foreign_shards import (
    Members,
    jpeg_that_claims,
    png_that_claims,
    sample,
    samples,
    stored_images,
    tar_of,
    write_shard,
)
from hypothesis import given
from hypothesis import strategies as st
from indexing import files, index, refused, three_tars
from raw_images import encoded

from pipelines.build.images import check_image
from pipelines.build_shards import main
from pipelines.manifest import MANIFEST_NAME, open_split, read_manifest
from pipelines.tools.index_foreign import FAILED_NAME
from pipelines.tools.index_shard import ShardToIndex, index_shard


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    return three_tars(tmp_path / "tars")


def skipped(directory: Path, **options: Any) -> list[dict[str, str]]:
    """Faults logged when bad samples are skipped."""
    index(directory, on_error="skip", **options)
    log = directory / "errors.jsonl"
    faults = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert read_manifest(directory).whole_shards == (not faults)
    assert main(["verify", str(directory), "--workers", "1"]) == 0
    return faults


FLIPPED = bytearray(encoded(3, height=64, width=64))
FLIPPED[-2000:-1900] = bytes(100)  # zeros in the entropy-coded data, and a restart marker where none may be
FLIPPED[-1950:-1948] = b"\xff\xc4"

BAD_SAMPLES: list[tuple[str, Members]] = [
    ("missing_image", [("c.cls", b"0"), ("c.json", b"{}"), ("c.webp", b"x")]),
    ("several_images", [*sample("c"), ("c.seg.png", encoded(1, "png"))]),
    ("missing_label", sample("c", label=None)),
    ("bad_label", [("c.jpg", encoded(1)), ("c.cls", b"cat")]),
    ("bad_label", [("c.jpg", encoded(1)), ("c.cls", b"-2")]),
    ("bad_label", [("c.jpg", encoded(1)), ("c.cls", b"1000000000000")]),
    ("bad_label", [("c.jpg", encoded(1)), ("c.cls", b"")]),
    ("empty", sample("c", image=b"")),
    ("not_an_image", sample("c", image=b"hello")),
    ("not_an_image", sample("c", image=b"GIF89a" + bytes(100))),
    ("not_an_image", sample("c", image=bytes(range(256)))),
    ("too_large", sample("c", image=png_that_claims(20_000, 20_000))),
    ("too_large", sample("c", image=jpeg_that_claims(60_000, 60_000))),
    ("damaged", sample("c", image=encoded(1, height=40, width=40)[:-200])),
    ("damaged", sample("c", image=encoded(1)[:30])),
    ("damaged", sample("c", image=encoded(1, "png")[:-30])),
    ("damaged", sample("c", image=bytes(FLIPPED))),
    ("damaged", sample("c", image=b"\xff\xd8\xff" + bytes(100))),
    ("damaged", sample("c", image=png_that_claims(8, 8))),
]


@pytest.mark.parametrize(("reason", "bad"), BAD_SAMPLES, ids=[f"{i}-{bad[0]}" for i, bad in enumerate(BAD_SAMPLES)])
def test_a_bad_sample_is_named_and_left_out(tmp_path: Path, reason: str, bad: Members) -> None:
    write_shard(tmp_path / "x.tar", [*samples("a"), *bad, *samples("z")])
    (fault,) = skipped(tmp_path)
    assert (fault["shard"], fault["key"], fault["reason"]) == (str(tmp_path / "x.tar"), "c", reason)
    assert fault["message"]
    assert [image for image, _ in stored_images(tmp_path)] == [encoded(zlib.crc32(key)) for key in (b"a", b"z")]


def test_a_header_check_trusts_the_pixels_but_not_the_header(tmp_path: Path) -> None:
    bad = {reason: members for reason, members in BAD_SAMPLES if reason in ("empty", "not_an_image", "too_large")}
    cut = sample("cut", image=encoded(1, height=40, width=40)[:-200])
    for number, members in enumerate(bad.values()):
        write_shard(tmp_path / f"{number}.tar", members)
    write_shard(tmp_path / "9.tar", [*samples("a", "b"), *cut])
    index(tmp_path, on_error="skip", check="header")
    log = [json.loads(line)["reason"] for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert log == list(bad)
    assert len(open_split(tmp_path, "train")) == 3


def test_an_image_of_too_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tools.tar_samples.MAX_IMAGE_BYTES", 1000)
    write_shard(tmp_path / "x.tar", [*samples("a"), *sample("c", image=bytes(1001))])
    (fault,) = skipped(tmp_path)
    assert (fault["key"], fault["reason"]) == ("c", "too_large")
    assert fault["message"] == "its jpg is 1001 bytes; at most 1000 are allowed"


def test_a_shard_without_labels_among_others_is_left_out(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", sample("a", None))
    write_shard(tmp_path / "1.tar", samples("b", "c"))
    write_shard(tmp_path / "val.tar", [*sample("d", None), *sample("e")])
    assert [(fault["key"], fault["reason"]) for fault in skipped(tmp_path)] == [
        ("a", "missing_label"),
        ("d", "missing_label"),
    ]
    assert [shard.file for shard in read_manifest(tmp_path).splits["train"].shards] == ["1.tar"]
    assert not (tmp_path / "0.idx").exists()


def test_a_label_beyond_the_class_names_is_bad(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("cat\ndog")
    write_shard(tmp_path / "x.tar", [*samples("a", "b"), *sample("c", 2)])
    (fault,) = skipped(tmp_path, classes=names)
    assert (fault["key"], fault["reason"], fault["message"]) == ("c", "bad_label", "label 2 is not in 0 ... 1")


def test_class_names_without_labels_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names"
    names.write_text("cat")
    write_shard(tmp_path / "x.tar", sample("a", None))
    assert "no sample has a label" in refused(capsys, "index", tmp_path, "--classes", names)


def test_of_equal_keys_only_the_first_stays(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [*samples("a"), *sample("a", image=encoded(9)), *samples("b")])
    write_shard(tmp_path / "1.tar", [*sample("b", image=encoded(9)), *samples("c")])
    write_shard(tmp_path / "val.tar", samples("a"))
    faults = skipped(tmp_path)
    assert [(Path(f["shard"]).name, f["key"], f["reason"]) for f in faults] == [
        ("0.tar", "a", "duplicate_key"),
        ("1.tar", "b", "duplicate_key"),
    ]
    assert "0.tar" in faults[1]["message"]
    assert "--unique-keys shard" in faults[1]["message"]
    assert [image for image, _ in stored_images(tmp_path)] == [encoded(zlib.crc32(key)) for key in (b"a", b"b", b"c")]
    assert [f["key"] for f in skipped(tmp_path, unique_keys="shard", overwrite=True)] == ["a"]


def cut_in_the_third_sample(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return data[: archive.getmembers()[6].offset_data + 10]


def without_end_mark(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return data[: archive.getmembers()[-1].offset_data + 512]


def with_damaged_header(data: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        place = archive.getmembers()[6].offset
    return data[:place] + b"\0" + data[place + 1 :]


@pytest.mark.parametrize(
    ("reason", "damage", "kept"),
    [
        ("truncated_tar", cut_in_the_third_sample, 2),
        ("truncated_tar", without_end_mark, 3),
        ("damaged_tar", with_damaged_header, 2),
        ("trailing_data", lambda data: data + tar_of(samples("d")), 3),
        ("not_a_tar", lambda _: b"hello" * 200, 0),
        ("not_a_tar", lambda _: b"", 0),
    ],
)
def test_of_a_damaged_shard_the_samples_before_stay(
    tmp_path: Path, reason: str, damage: Callable[[bytes], bytes], kept: int
) -> None:
    path = write_shard(tmp_path / "1.tar", samples("a", "b", "c"))
    path.write_bytes(damage(path.read_bytes()))
    write_shard(tmp_path / "2.tar", samples("y", "z"))
    (fault,) = skipped(tmp_path)
    assert (fault["shard"], fault["key"], fault["reason"]) == (str(path), "", reason)
    assert len(stored_images(tmp_path)) == kept + 2


def test_links_are_missing_images(tmp_path: Path) -> None:
    buffer = io.BytesIO(tar_of(samples("a", "b")))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        link = tarfile.TarInfo("l.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    (fault,) = skipped(tmp_path)
    assert (fault["key"], fault["reason"]) == ("l", "missing_image")
    assert "a link" in fault["message"]


def test_bad_samples_stop_the_indexing_with_one_line_and_a_log(
    tmp_path: Path, tars: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tars / "train-9.tar", [*sample("c", image=b""), *sample("d", image=b"x"), *sample("e", image=b"")])
    before = files(tars)
    line = refused(capsys, "index", tars)
    log = tars / FAILED_NAME
    assert line == (f"3 faults (2 empty, 1 not_an_image), listed in {log}; mend them or use --on-error skip")
    assert [json.loads(entry)["key"] for entry in log.read_text().splitlines()] == ["c", "d", "e"]
    assert {name: data for name, data in files(tars).items() if name != FAILED_NAME} == before
    line = refused(capsys, "index", tars, "--output", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"tars", f"out.{FAILED_NAME}"}
    (tars / "train-9.tar").unlink()
    index(tars)
    assert not log.exists()


def test_a_split_without_a_good_sample_is_refused(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tars / "test.tar", sample("c", image=b""))
    line = refused(capsys, "index", tars, "--on-error", "skip")
    assert line.startswith(f"split test has not a single good sample; the first fault: {tars / 'test.tar'}: c: empty: ")
    assert not (tars / MANIFEST_NAME).exists()


@given(st.lists(st.tuples(st.integers(0, 10_239), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_shard_damaged_anyhow_gives_samples_that_verify(changes: list[tuple[int, int]]) -> None:
    data = bytearray(tar_of(samples("a", "b")))
    for place, value in changes:
        data[place % len(data)] = value
    with TemporaryDirectory() as directory:
        path = Path(directory) / "x.tar"
        path.write_bytes(data)
        indexed = index_shard(ShardToIndex(str(path), decode=True))
        assert (indexed.size, indexed.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        for record in indexed.records:
            image = data[int(record["offset"]) :][: int(record["size"])]
            assert (zlib.crc32(image), check_image(bytes(image)).height) == (record["crc32"], record["height"])
