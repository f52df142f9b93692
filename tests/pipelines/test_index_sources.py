"""Shards come from directories, servers, buckets and patterns; what cannot be found is one line."""

from pathlib import Path

import numpy as np
import pytest
from foreign_shards import samples, write_shard
from indexing import files, index, refused, three_tars
from remote_servers import Fault, http_directory, s3_directory

from pipelines.build_shards import main
from pipelines.manifest import open_split, read_manifest
from pipelines.tools.index_sources import by_split, expand_sources


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    return three_tars(tmp_path / "tars")


def test_shards_on_a_server_are_indexed_by_one_pass_each(tars: Path, tmp_path: Path) -> None:
    with http_directory(tars) as server:
        index(f"{server.url}/set-train-{{0000..0001}}.tar", output=tmp_path / "mine")
        assert server.bytes_sent == sum(path.stat().st_size for path in tars.glob("*train*.tar"))
        split = open_split(tmp_path / "mine", "train")
        assert split.shards[1].file == f"{server.url}/set-train-0001.tar"
        index(tars)
        there, here = split.samples, open_split(tars, "train").samples
        np.testing.assert_array_equal(there, here)
        assert main(["verify", str(tmp_path / "mine"), "--workers", "1"]) == 0


def test_a_network_that_fails_for_a_while_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.remote.remote_stream.READ_BYTES", 5_000)
    monkeypatch.setattr("pipelines.remote.remote_stream.pause_seconds", lambda *_: 0.0)
    path = write_shard(tmp_path / "tars" / "0.tar", samples(*map(str, range(20))))
    answers = {1: Fault(status=503), 4: Fault(drop_after=100)}
    with http_directory(path.parent, lambda request: answers.get(request.number)) as server:
        index(f"{server.url}/0.tar", output=tmp_path / "mine")
    index(path.parent)
    np.testing.assert_array_equal(
        open_split(tmp_path / "mine", "train").samples, open_split(path.parent, "train").samples
    )


def test_a_bucket_is_indexed_listed_and_verified(
    tars: Path, tmp_path: Path, s3_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index(tars, output=tmp_path / "here")
    with s3_directory(tars) as url:
        index(f"{url}/", output=tmp_path / "there")
        for split in ("train", "val"):
            there, here = (open_split(tmp_path / name, split) for name in ("there", "here"))
            assert [shard.file for shard in there.shards] == [f"{url}/{Path(shard.file).name}" for shard in here.shards]
            np.testing.assert_array_equal(there.samples, here.samples)
        capsys.readouterr()
        assert main(["ls", str(tmp_path / "there"), "--split", "val"]) == 0
        assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == [
            f"val-0000-{number}" for number in range(4)
        ]
        assert main(["verify", str(tmp_path / "there"), "--workers", "1"]) == 0


def test_a_file_url_is_read_like_any_other(tars: Path, tmp_path: Path) -> None:
    index(f"file://{tars}/set-val-0000.tar", output=tmp_path / "mine")
    assert read_manifest(tmp_path / "mine").splits["val"].samples == 4


def test_a_directory_behind_a_url_is_listed(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert expand_sources([f"file://{tars}/"]) == [f"file://{path}" for path in sorted(tars.iterdir())]
    (tmp_path / "empty").mkdir()
    assert "no tar files" in refused(capsys, "index", f"file://{tmp_path}/empty/", "--output", tmp_path / "x")
    assert "cannot be listed (" in refused(capsys, "index", f"file://{tmp_path}/nowhere/", "--output", tmp_path / "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nowhere"], "{tmp}/nowhere: no such file"),
        (["{tmp}/tars/set-train-{{0000..0002}}.tar"], "{tmp}/tars/set-train-0002.tar: no such file"),
        (["{tmp}/tars/set-{{train,val.tar"], "{tmp}/tars/set-{{train,val.tar: its braces do not match"),
        (["{tmp}/empty"], "{tmp}/empty: no tar files in this directory"),
        (["{tmp}/tars/set-val-0000.tar"], "--output: name a directory"),
        (["{tmp}/tars", "{tmp}/tars/set-val-0000.tar", "--output", "{tmp}/x"], "set-val-0000.tar: named twice"),
        (["{tmp}/tars", "--output", "{tmp}/tars"], "{tmp}/tars: exists and is not an empty directory"),
        (["{tmp}/tars", "--classes", "{tmp}/nowhere"], "No such file or directory: '{tmp}/nowhere'"),
        (["nothing://x/y.tar", "--output", "{tmp}/x"], "nothing"),
        (["file:///nowhere/y.tar", "--output", "{tmp}/x"], "file:///nowhere/y.tar: cannot be read ("),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, tars: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    before = files(tars)
    assert message.format(tmp=tmp_path) in refused(capsys, "index", *(text.format(tmp=tmp_path) for text in arguments))
    assert files(tars) == before
    assert not (tmp_path / "x").exists()


def test_a_shard_that_cannot_be_read_is_one_line(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with http_directory(tars) as server:
        line = refused(capsys, "index", f"{server.url}/nothing.tar", "--output", tars / "x")
    assert line.startswith(f"{server.url}/nothing.tar: cannot be read (")


def test_braces_stand_for_many_shards_of_all_kinds(tars: Path) -> None:
    assert expand_sources(["s3://b/{train,val}-{08..10}.tar"]) == [
        f"s3://b/{split}-{number}.tar" for split in ("train", "val") for number in ("08", "09", "10")
    ]
    assert expand_sources([f"{tars}/set-train-{{0000..0001}}.tar"]) == [
        f"{tars}/set-train-{number}.tar" for number in ("0000", "0001")
    ]
    odd = write_shard(tars / "{odd}.tar", samples("a"))
    assert expand_sources([str(odd)]) == [str(odd)]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet1k-train-0000.tar", "train"),
        ("imagenet1k-validation-00.tar", "val"),
        ("x_valid_1.tar", "val"),
        ("VAL.tar", "val"),
        ("test-1.tar", "test"),
        ("00000.tar", "train"),
        ("trainer.tar", "train"),
        ("contest.tar", "train"),
        ("https://x/test/val-0.tar?key=train", "val"),
    ],
)
def test_the_split_is_a_word_of_the_file_name(name: str, split: str) -> None:
    assert by_split([name]) == {split: [name]}
