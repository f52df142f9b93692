"""What a data set tells about itself: counts, names, single images."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from foreign_shards import sample, samples, tar_of, write_shard
from indexing import index, refused
from raw_images import encoded
from remote_servers import http_directory

from pipelines.build_shards import main
from pipelines.manifest import INDEX_DTYPE, IndexArray
from pipelines.tools.label_mixing import label_mixing, mixing_warning

ENVIRONMENT = {**os.environ, "PYTHONPATH": "."}
LONG = "directory/" * 30 + "x" * 120


def test_names_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "x.tar", samples("a\x1b[2J\nb"))
    index(tmp_path)
    (line,) = printed(capsys, "ls", tmp_path)
    key = line.split("\t")[2]
    assert key == "a\\x1b[2J\\nb"
    assert printed(capsys, "cat", tmp_path, key, "--output", tmp_path / "out") == []


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_shard(tmp_path / "data" / "train-0.tar", samples("a", "b", LONG))
    write_shard(tmp_path / "data" / "train-1.tar", samples("ü", "e", "f"))
    write_shard(tmp_path / "data" / "val-0.tar", samples("a", "v"))
    index(tmp_path / "data")
    return tmp_path / "data"


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return list(capsys.readouterr().out.splitlines())


def records(shard: list[int], label: list[int]) -> IndexArray:
    made = np.zeros(len(shard), dtype=INDEX_DTYPE)
    made["shard"], made["label"] = shard, label
    return made


def test_every_sample_is_a_line_with_its_key(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split("\t") for line in printed(capsys, "ls", data)]
    assert [line[2] for line in lines] == ["a", "b", LONG, "ü", "e", "f", "a", "v"]
    size = str(len(encoded(zlib.crc32(b"b"))))
    assert lines[1] == ["train", "1", "b", "1", "6x9", size, "train-0.tar"]
    assert lines[-1][:2] == ["val", "1"]


def test_lines_can_be_limited(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(printed(capsys, "ls", data, "--limit", 7)) == 7
    assert [line.split("\t")[0] for line in printed(capsys, "ls", data, "--split", "val")] == ["val", "val"]
    assert printed(capsys, "ls", data, "--split", "val", "--limit", 1)[0].startswith("val\t0\ta\t")


def test_an_image_is_written_by_key_or_number(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "image"
    for arguments, key in [
        (("b",), "b"),
        (("v.jpg",), "v"),
        (("ü",), "ü"),
        ((LONG,), LONG),
        (("5", "--id"), "f"),
        (("1", "--id", "--split", "val"), "v"),
    ]:
        assert printed(capsys, "cat", data, *arguments, "--output", output) == []
        assert output.read_bytes() == encoded(zlib.crc32(key.encode()))


def test_an_image_is_piped(data: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    capsysbinary.readouterr()
    assert main(["cat", str(data), "b"]) == 0
    assert capsysbinary.readouterr().out == encoded(zlib.crc32(b"b"))


def test_a_terminal_gets_no_image(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert refused(capsys, "cat", data, "b").startswith("standard output is a terminal")


def test_data_on_a_server_is_listed_and_read(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = printed(capsys, "ls", data)
    with http_directory(data) as server:
        assert printed(capsys, "ls", server.url) == here
        assert printed(capsys, "stats", server.url)[1:] == printed(capsys, "stats", data)[1:]
        assert printed(capsys, "cat", server.url, "e", "--output", tmp_path / "e") == []
    assert (tmp_path / "e").read_bytes() == encoded(zlib.crc32(b"e"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cat", "{data}", "nothing"), "{data}: no sample with the key 'nothing' in train, val; `ls` lists the keys"),
        (("cat", "{data}", "e", "--split", "val"), "{data}: no sample with the key 'e' in val; `ls` lists the keys"),
        (("cat", "{data}", "6", "--id"), "'6' is not a sample's number in 0 ... 5 of split train"),
        (("cat", "{data}", "-1", "--id"), "'-1' is not a sample's number"),
        (("cat", "{data}", "x", "--id"), "'x' is not a sample's number in 0 ... 5 of split train"),
        (("cat", "{data}", "e", "--split", "test"), "{data}: no split 'test'; it has train, val"),
        (("ls", "{data}", "--split", "test"), "{data}: no split 'test'; it has train, val"),
        (("ls", "{data}/nowhere"), "not a data set directory"),
        (("stats", "{data}/nowhere"), "not a data set directory"),
    ],
)
def test_what_is_not_there_is_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    line = refused(capsys, *(text.format(data=data) for text in arguments))
    assert message.format(data=data) in line


def test_a_damaged_image_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "train-0.tar"
    content = path.read_bytes()
    image = encoded(zlib.crc32(b"b"))
    path.write_bytes(content.replace(image, image[:-9] + bytes(9)))
    assert "sample 1 of train is damaged (CRC differs)" in refused(capsys, "cat", data, "b")


def test_a_shard_with_other_content_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "train-0.tar"
    path.write_bytes(bytes(path.stat().st_size))
    assert f"{path}: no tar header before byte 512" in refused(capsys, "ls", data)


def test_counts_are_of_every_split(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counted = json.loads("\n".join(printed(capsys, "stats", data, "--json")))
    train = counted["splits"]["train"]
    assert (train["samples"], train["shards"], train["unlabelled"]) == (6, 2, 0)
    assert train["classes"] == {"0": 4, "1": 2}
    assert train["height"] == {"min": 6, "median": 6.0, "max": 6}
    assert train["samples_per_class"] == {"min": 2, "median": 3.0, "max": 4}
    assert train["shard_bytes"] == sum(path.stat().st_size for path in data.glob("train*.tar"))
    text = printed(capsys, "stats", data)
    assert text[0] == "data: 2 classes, resize none"
    assert "train: 6 samples in 2 shards" in "\n".join(text)
    assert any("0 4, 1 2" in line for line in text)


def test_unlabelled_data_has_no_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "x.tar", sample("a", None))
    index(tmp_path)
    assert not any("mixing" in line for line in printed(capsys, "stats", tmp_path))
    assert printed(capsys, "ls", tmp_path)[0].split("\t")[3] == "-"


def test_data_ordered_by_class_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in range(2):
        write_shard(tmp_path / f"{label}.tar", [m for n in range(5) for m in sample(f"{label}{n}", label)])
    index(tmp_path)
    capsys.readouterr()
    assert main(["stats", str(tmp_path)]) == 0
    harmless = "harmless while data.window_shards is at least 2, all shards"
    assert f"train: samples lie ordered by class (mixing 0.00 of 1); {harmless}" in capsys.readouterr().err


def test_more_shards_than_training_mixes_are_said_to_need_a_reshuffle() -> None:
    shard = np.repeat(np.arange(100), 5)
    warning = mixing_warning("train", records(shard.tolist(), shard.tolist()))
    assert warning is not None
    assert "training mixes only 64 of 100 shards at a time (data.window_shards); `python -m " in warning


def test_mixing_is_one_for_shuffled_labels_and_zero_for_one_class_a_shard() -> None:
    generator = np.random.default_rng(0)
    shard = np.repeat(np.arange(100), 100)
    for classes in (2, 10, 1000):
        label = np.arange(10_000) % classes
        assert label_mixing(records(shard.tolist(), generator.permutation(label).tolist())) == pytest.approx(
            1, abs=0.02
        )
    assert label_mixing(records(shard.tolist(), shard.tolist())) == 0
    assert label_mixing(records(shard.tolist(), (shard // 2).tolist())) == 0


def test_mixing_is_a_half_for_two_of_four_classes_in_each_shard() -> None:
    shard = np.repeat(np.arange(8), 1000)
    label = shard % 2 * 2 + np.arange(8000) % 2
    assert label_mixing(records(shard.tolist(), label.tolist())) == pytest.approx(0.5, abs=0.01)


def test_mixing_of_a_single_shard_a_single_class_or_nothing_is_one() -> None:
    assert label_mixing(records([0] * 4, [0, 0, 1, 1])) == 1
    assert label_mixing(records([0, 0, 1, 1], [0] * 4)) == 1
    assert label_mixing(records([], [])) == 1


def test_names_that_are_not_text_are_shown_and_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tar_of([("X.jpg", encoded(1))], 0).replace(b"X.jpg", b"\xff.jpg")
    header = bytearray(raw[:512])
    header[148:156] = b"        "
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "x.tar").write_bytes(bytes(header) + raw[512:])
    index(tmp_path)
    key = printed(capsys, "ls", tmp_path)[0].split("\t")[2]
    assert key == "\\xff"
    assert printed(capsys, "cat", tmp_path, key, "--output", tmp_path / "out") == []
    assert (tmp_path / "out").read_bytes() == encoded(1)


def test_shards_here_and_there_are_listed_together(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = data.parent / "both"
    index(f"file://{data}/train-0.tar", data / "train-1.tar", output=output)
    keys = [line.split("\t")[2] for line in printed(capsys, "ls", output)]
    assert keys == ["a", "b", LONG, "ü", "e", "f"]


@pytest.mark.parametrize("command", ["ls", "stats"])
def test_a_reader_that_leaves_is_no_error(data: Path, command: str) -> None:
    arguments = [sys.executable, "-m", "pipelines.build_shards", command, str(data)]
    root = Path(__file__).resolve().parents[2]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(arguments, cwd=root, stdout=pipe, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
