"""The builder from end to end, on small data."""

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from raw_images import Tree, encoded, labelled_tree, write_archive, write_tree

from pipelines.build.build_options import BuildOptions
from pipelines.build.builder import build
from pipelines.build_shards import main
from pipelines.manifest import MANIFEST_NAME, open_split, read_manifest

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def built(output: Path, source: Path, **options: int | str) -> Path:
    build(BuildOptions(kind="folder", source=source, output=output, workers=1, **options))  # type: ignore[arg-type]
    return output


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that the command prints besides its progress."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("build_shards: error: ") == 1
    line: str = err.splitlines()[-1]
    assert line.startswith("build_shards: error: ")
    return line.removeprefix("build_shards: error: ")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "photos", labelled_tree(train=5, test=2))


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_two_builds_of_the_same_images_are_the_same_bytes(tmp_path: Path, tree: Path, form: str) -> None:
    archive = write_archive(tmp_path / f"photos.{form}", dict(reversed(labelled_tree(train=5, test=2).items())))
    assert files(built(tmp_path / "a", tree)) == files(built(tmp_path / "b", archive))


def test_statistics_are_those_of_the_train_pixels(tmp_path: Path, tree: Path) -> None:
    statistics = read_manifest(built(tmp_path / "out", tree)).statistics
    values = np.concatenate([pixels(path).reshape(-1, 3) for path in (tree / "train").rglob("*.jpg")]) / 255
    np.testing.assert_allclose(statistics["mean"], values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics["std"], values.std(axis=0), rtol=1e-12)


def test_textures_are_built_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["textures", "--train-count", "30", "--test-count", "10", "--name", "small"]
    for output in ("a", "b"):
        assert main([*command, "--output", str(tmp_path / output)]) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    summary = [line.split() for line in capsys.readouterr().out.splitlines()[:3]]
    assert summary[0][:4] == ["split", "samples", "classes", "shards"]
    assert [row[:4] for row in summary[1:]] == [["train", "30", "10", "1"], ["test", "10", "10", "1"]]
    manifest = read_manifest(tmp_path / "a")
    assert manifest.name == "small"
    assert (manifest.made["source"], manifest.made["train_count"]) == ("textures", 30)
    assert main(["verify", str(tmp_path / "a")]) == 0


BAD: Tree = {
    "train/cat/cut.jpg": encoded(90, height=40, width=40)[:-200],
    "train/dog/fake.jpg": b"hello",
    "test/dog/notes.txt": b"hello",
}


def test_bad_images_stop_the_build_and_are_listed_beside_the_output(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tree, BAD)
    before = {path.name for path in tmp_path.iterdir()}
    log = tmp_path / "out.errors.jsonl"
    message = refused(capsys, "folder", "--source", tree, "--output", tmp_path / "out")
    assert message == (
        f"3 bad images, listed with reasons in {log}; mend them or use --on-error skip, and run the same command "
        "again: it keeps what is finished"
    )
    faults = [json.loads(line) for line in log.read_text().splitlines()]
    assert [fault["name"] for fault in faults] == ["test/dog/notes.txt", "train/cat/cut.jpg", "train/dog/fake.jpg"]
    assert [fault["split"] for fault in faults] == [None, "train", "train"]
    assert faults[0]["reason"] == "suffix '.txt' is none of .jpg, .jpeg, .png"
    assert "truncated" in faults[1]["reason"]
    assert faults[2]["reason"] == "neither JPEG nor PNG"
    assert {path.name for path in tmp_path.iterdir()} == before | {log.name, ".out.partial"}


def test_a_build_goes_on_once_its_bad_images_are_mended_or_may_be_skipped(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tree, BAD)
    command = ["folder", "--source", tree, "--output", tmp_path / "out", "--max-count", 2, "--workers", 1]
    refused(capsys, *command)
    write_tree(tree, {"train/cat/cut.jpg": encoded(90, height=40, width=40)})
    (tree / "test/dog/notes.txt").unlink()
    assert "1 bad images" in refused(capsys, *command)
    assert main([str(word) for word in [*command, "--on-error", "skip"]]) == 0
    assert "going on with an earlier build; of 8 shards 8 are finished" in capsys.readouterr().err
    assert files(tmp_path / "out") == files(built(tmp_path / "other", tree, max_count=2, on_error="skip"))
    assert not any(path.name.startswith(".out") for path in tmp_path.iterdir())


def test_bad_images_are_left_out_on_demand_and_listed_in_the_data_set(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tree, BAD)
    (tmp_path / "out.errors.jsonl").write_text("of an earlier attempt")
    assert main(["folder", "--source", str(tree), "--output", str(tmp_path / "out"), "--on-error", "skip"]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'out'}; 3 files left out, see errors.jsonl\n")
    assert not (tmp_path / "out.errors.jsonl").exists()
    assert len((tmp_path / "out" / "errors.jsonl").read_text().splitlines()) == 3
    assert {name: split.samples for name, split in read_manifest(tmp_path / "out").splits.items()} == {
        "train": 10,
        "test": 4,
    }
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_shards_without_a_good_image_leave_no_gap(tmp_path: Path) -> None:
    tree = {f"{number}.jpg": encoded(number) if number % 3 == 0 else b"bad" for number in range(9)}
    output = built(tmp_path / "out", write_tree(tmp_path / "flat", tree), max_count=1, on_error="skip")
    assert sorted(path.name for path in output.glob("*.tar")) == [f"train-00000{number}.tar" for number in range(3)]
    assert open_split(output, "train").samples["shard"].tolist() == [0, 1, 2]
    assert main(["verify", str(output)]) == 0


def test_a_split_without_a_good_image_is_refused(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tree / "test").rglob("*.jpg"):
        path.write_bytes(b"bad")
    message = refused(capsys, "folder", "--source", tree, "--output", tmp_path / "out", "--on-error", "skip")
    assert message.startswith("split test has not a single good image; the first: test/")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", ".out.partial"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"train/a/1.jpg": encoded(1), "../evil.jpg": encoded(2)}, "member '../evil.jpg' would escape"),
        ({"train/a/1.jpg": encoded(1), "train/b/1.jpg": encoded(2), "val/a/1.jpg": encoded(3)}, "of class 'b'"),
        ({"notes.txt": b"hello"}, "no images"),
    ],
)
@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_a_refused_archive_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], members: Tree, message: str, form: str
) -> None:
    archive = write_archive(tmp_path / f"photos.{form}", members)
    assert message in refused(capsys, "folder", "--source", archive, "--output", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_a_truncated_archive_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    archive = write_archive(tmp_path / f"photos.{form}", labelled_tree())
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    assert "damaged" in refused(capsys, "folder", "--source", archive, "--output", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [archive]


def test_an_output_in_use_is_refused_and_an_empty_one_is_taken(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    built(output, tree)
    before = files(output)
    message = refused(capsys, "folder", "--source", tree, "--output", output)
    assert message == f"{output}: exists and is not an empty directory; remove it or choose another --output"
    assert files(output) == before
    assert "exists and is not" in refused(capsys, "textures", "--output", output / MANIFEST_NAME)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_build_shows_nothing_and_goes_on_when_it_is_run_again(
    tmp_path: Path,
    tree: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def stop(*_: object) -> None:
        raise error

    command = ["folder", "--source", str(tree), "--output", str(tmp_path / "out"), "--workers", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.build.assembly.publish", stop)
        status = main(command)
    last_line = capsys.readouterr().err.splitlines()[-1]
    if isinstance(error, KeyboardInterrupt):
        assert (status, last_line) == (130, "build_shards: interrupted; a build that is run again goes on from here")
    else:
        assert (status, last_line) == (2, "build_shards: error: [Errno 28] No space left on device")
    assert {path.name for path in tmp_path.iterdir()} == {"photos", ".out.partial"}
    assert main(command) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out"}
    assert files(tmp_path / "out") == files(built(tmp_path / "other", tree))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required"),
        (["imagenet22"], "invalid choice: 'imagenet22'"),
        (["folder", "--output", "x"], "the following arguments are required: --source"),
        (["textures", "--output", "x", "--seed", "-1"], "argument --seed: '-1' is not an integer in 0 ... 184"),
        (["textures", "--output", "x", "--max-count", "0"], "argument --max-count: '0' is not an integer in 1"),
        (["textures", "--output", "x", "--max-size", "1GB"], "argument --max-size: '1GB' is not an integer in 1"),
        (["textures", "--output", "x", "--on-error", "cry"], "argument --on-error: invalid choice: 'cry'"),
        (["textures", "--output", "x", "--colour"], "unrecognized arguments: --colour"),
        (
            ["textures", "--output", "x", "--resize", "256"],
            "argument --resize: '256' is none of none, short:S and canv",
        ),
        (["textures", "--output", "x", "--resize", "short:0"], "argument --resize: 'short:0' is none of"),
        (["textures", "--output", "x", "--quality", "0"], "argument --quality: '0' is not an integer in 1 ... 100"),
        (["textures", "--output", "x", "--workers", "0"], "argument --workers: '0' is not an integer in 1"),
        (["textures", "--output", "x", "--part", "2/2"], "argument --part: '2/2' is not I/N with I in 0 ... N-1"),
        (["textures", "--output", "x", "--part", "half"], "argument --part: 'half' is not I/N"),
    ],
)
def test_a_bad_command_line_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("build_shards: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_sixty_thousand_images_are_built_in_two_minutes_and_verified(tmp_path: Path) -> None:
    archive = SHARED_DATA / "cifar10-images.tar.gz"
    if not archive.exists():
        pytest.skip(f"{archive} is not here")
    start = os.times()
    output = built(tmp_path / "out", archive)
    end = os.times()
    assert end.user + end.system - start.user - start.system < 120
    assert {name: split.samples for name, split in read_manifest(output).splits.items()} == {
        "train": 50_000,
        "test": 10_000,
    }
    assert main(["verify", str(output)]) == 0
