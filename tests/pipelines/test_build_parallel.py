"""One data set, however many processes, parts and attempts wrote it."""

import fcntl
import json
from pathlib import Path

import pytest
from raw_images import encoded, labelled_tree, write_tree

from pipelines.build_shards import main

RESIZED = ("--resize", "canvas:8", "--max-count", 3)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def folder(source: Path, output: Path, *options: object) -> int:
    return run("folder", "--source", source, "--output", output, *(options or ("--workers", 1)))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    line: str = capsys.readouterr().err.splitlines()[-1]
    return line.removeprefix("build_shards: error: ")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards of three; one image is bad."""
    root = write_tree(tmp_path_factory.mktemp("raw") / "photos", labelled_tree(train=8, test=3))
    return write_tree(root, {"train/cat/bad.jpg": encoded(1)[:-100]})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> dict[str, bytes]:
    """What one process makes in one go."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert folder(tree, output, *RESIZED, "--on-error", "skip", "--workers", 1) == 0
    assert len(list(output.glob("*.tar"))) == 8
    return files(output)


def test_several_processes_write_the_bytes_of_one(tmp_path: Path, tree: Path, whole: dict[str, bytes]) -> None:
    assert folder(tree, tmp_path / "out", *RESIZED, "--on-error", "skip", "--workers", 3) == 0
    assert files(tmp_path / "out") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_merged_parts_have_the_bytes_of_a_whole_build(tmp_path: Path, tree: Path, whole: dict[str, bytes]) -> None:
    options = (*RESIZED, "--on-error", "skip", "--workers", 1)
    for part in ("2/3", "0/3", "1/3"):
        assert not (tmp_path / "out").exists()
        assert folder(tree, tmp_path / "out", *options, "--part", part) == 0
    assert run("merge", "--output", tmp_path / "out", "--workers", 1) == 0
    assert files(tmp_path / "out") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_single_part_waits_for_merge_like_any_other(tmp_path: Path, tree: Path, whole: dict[str, bytes]) -> None:
    assert folder(tree, tmp_path / "out", *RESIZED, "--on-error", "skip", "--workers", 1, "--part", "0/1") == 0
    assert not (tmp_path / "out").exists()
    assert run("merge", "--output", tmp_path / "out", "--workers", 1) == 0
    assert files(tmp_path / "out") == whole


def test_merge_refuses_what_is_missing_or_changed(
    tmp_path: Path, tree: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    output, options = tmp_path / "out", (*RESIZED, "--on-error", "skip", "--workers", 1)
    assert "no part of this build was begun" in refused(capsys, "merge", "--output", output)
    assert folder(tree, output, *options, "--part", "0/2") == 0
    assert "shard train-000001 is not finished" in refused(capsys, "merge", "--output", output)
    assert folder(tree, output, *options, "--part", "1/2") == 0
    shard = tmp_path / ".out.partial" / "finished" / "train-000003.tar"
    shard.write_bytes(shard.read_bytes().replace(b"train-", b"brain-", 1))
    message = refused(capsys, "merge", "--output", output, "--workers", 1)
    assert message == "shard train-000003 has changed since it was finished; run its part again"
    assert folder(tree, output, *options, "--part", "1/2") == 0
    assert run("merge", "--output", output, "--workers", 1) == 0
    assert files(output) == whole


def test_parts_with_bad_images_say_so_and_cannot_be_merged(
    tmp_path: Path, tree: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    statuses = [folder(tree, output, *RESIZED, "--workers", 1, "--part", f"{part}/2") for part in (0, 1)]
    assert sorted(statuses) == [0, 2]
    log = tmp_path / f"out.part-{statuses.index(2)}-of-2.errors.jsonl"
    (fault,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert (fault["name"], fault["split"]) == ("train/cat/bad.jpg", "train")
    assert "1 bad images" in refused(capsys, "merge", "--output", output)
    part = f"{statuses.index(2)}/2"
    assert folder(tree, output, *RESIZED, "--workers", 1, "--part", part, "--on-error", "skip") == 0
    assert run("merge", "--output", output, "--workers", 1) == 0
    assert files(output) == whole


def test_other_options_cannot_go_on_with_a_build_but_can_begin_anew(
    tmp_path: Path, tree: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert folder(tree, output, "--max-count", 3, "--workers", 1) == 2
    command = ("folder", "--source", tree, "--output", output, *RESIZED, "--on-error", "skip", "--workers", 1)
    assert refused(capsys, *command) == (
        f"{tmp_path}/.out.partial: begun with resize none, now canvas:8; use the same, or --restart to throw away what "
        f"is in {tmp_path}/.out.partial"
    )
    assert run(*command, "--restart") == 0
    assert files(output) == whole


def test_a_part_refuses_another_list_of_images(tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("--output", tmp_path / "out", "--max-count", 3, "--workers", 1, "--on-error", "skip", "--part")
    assert run("folder", "--source", tree, *command, "0/2") == 0
    other = write_tree(tmp_path / "photos", labelled_tree(train=9, test=3))
    assert "another list of images" in refused(capsys, "folder", "--source", other, *command, "1/2")
    assert "remove" in refused(capsys, "folder", "--source", tree, *command, "1/2", "--restart")


def test_a_damaged_shard_of_an_unfinished_build_is_written_again(
    tmp_path: Path, tree: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert folder(tree, tmp_path / "out", *RESIZED, "--workers", 1) == 2
    finished = tmp_path / ".out.partial" / "finished"
    tar = bytearray((finished / "train-000002.tar").read_bytes())
    tar[700] ^= 1
    (finished / "train-000002.tar").write_bytes(tar)
    (finished / "train-000004.idx").unlink()
    (tmp_path / ".out.partial" / "notes" / "test-000000.npz").write_bytes(b"torn")
    capsys.readouterr()
    assert folder(tree, tmp_path / "out", *RESIZED, "--workers", 1, "--on-error", "skip") == 0
    said = capsys.readouterr().err
    for stem in ("train-000002", "train-000004"):
        assert f"shard {stem} has changed since it was finished; it is written again" in said
    assert "images written in 3 shards" in said
    assert files(tmp_path / "out") == whole


def test_a_build_that_was_stopped_while_it_closed_gaps_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {f"{number}.jpg": encoded(number) if number % 3 == 0 else b"bad" for number in range(9)}
    source = write_tree(tmp_path / "photos", images)
    options = ("--max-count", 1, "--on-error", "skip", "--workers", 1)
    assert folder(source, tmp_path / "whole", *options) == 0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.build.assembly.write_faults", stop)
        assert folder(source, tmp_path / "out", *options) == 130
    names = {path.name for path in (tmp_path / ".out.partial" / "finished").iterdir()}
    assert names == {f"train-00000{number}{suffix}" for number in range(3) for suffix in (".tar", ".idx")}
    assert folder(source, tmp_path / "out", *options) == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_two_builds_of_one_output_exclude_each_other(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refused(capsys, "folder", "--source", tree, "--output", tmp_path / "out")
    assert message == f"{partial}: in use by another build of the same output; wait for it or stop it"
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as parts do
        assert "in use" in refused(capsys, "folder", "--source", tree, "--output", tmp_path / "out")
        assert folder(tree, tmp_path / "out", "--workers", 1, "--on-error", "skip", "--part", "0/2") == 0
