"""The paper's transfer sets, read by torchvision's own classes from small directories in their layouts."""

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_shards import stored_images
from indexing import refused
from PIL import Image
from raw_images import encoded, write_archive, write_tree
from torchvision_layouts import LAYOUTS, cifar, cifar_pixels, food101, pets

from pipelines.build.cifar import CIFAR10, CIFAR100, CifarSet
from pipelines.build.torchvision_source import torchvision_source
from pipelines.build.transfer_sets import LEFT_OUT, TRANSFER_SETS
from pipelines.build_shards import main
from pipelines.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _any_flowers(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision reads the lists of Flowers only if they are the official ones, byte for byte."""
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, _: Path(path).is_file())


def build(name: str, root: Path, output: Path, *options: str) -> Path:
    command = ["torchvision", "--name", name, "--root", str(root), "--output", str(output), "--workers", "1", *options]
    assert main(command) == 0
    return output


def stored(directory: Path) -> dict[bytes, tuple[str, str]]:
    """Split and class of every stored image."""
    classes = read_manifest(directory).classes
    found = {
        image: (split, classes[label])
        for split in ("train", "test")
        for image, label in stored_images(directory, split)
    }
    assert len(found) == sum(split.samples for split in read_manifest(directory).splits.values())
    return found


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"caltech101"}))
def test_images_keep_their_bytes_and_have_the_splits_and_classes_of_the_paper(tmp_path: Path, name: str) -> None:
    tree, placed = LAYOUTS[name]()
    output = build(name, write_tree(tmp_path / "root", tree), tmp_path / "out")
    assert stored(output) == {tree[path]: where for path, where in placed.items()}
    manifest = read_manifest(output)
    assert (manifest.name, manifest.made["source"]) == (name, "torchvision")
    assert manifest.made["metric"] == TRANSFER_SETS[name].metric
    assert main(["verify", str(output), "--workers", "1"]) == 0


def test_caltech_has_30_train_images_of_each_class_whatever_the_seed(tmp_path: Path) -> None:
    tree, placed = LAYOUTS["caltech101"]()
    root = write_tree(tmp_path / "root", tree)
    found = stored(build("caltech101", root, tmp_path / "out"))
    assert Counter(found.values()) == {
        **{("train", name): 30 for name in ("BACKGROUND_Google", "accordion", "yin_yang")},
        ("test", "BACKGROUND_Google"): 3,
        ("test", "accordion"): 1,
        ("test", "yin_yang"): 5,
    }
    assert {image: name for image, (_, name) in found.items()} == {
        tree[path]: name for path, (_, name) in placed.items()
    }
    assert stored(build("caltech101", root, tmp_path / "other", "--seed", "1")) == found
    test_names = {path[-8:-4] for path in placed if found[tree[path]] == ("test", "yin_yang")}
    assert test_names == {"0006", "0015", "0024", "0033", "0034"}  # and so on every machine


@pytest.mark.parametrize("which", [CIFAR10, CIFAR100], ids=lambda which: which.name)
def test_cifar_is_stored_as_png_with_the_labels_of_its_classes(tmp_path: Path, which: CifarSet) -> None:
    output = build(which.name, write_tree(tmp_path / "root", cifar(which)), tmp_path / "out")
    found = stored(output)
    assert len(found) == 4 * len(which.batches)
    for png, (split, name) in found.items():
        with Image.open(io.BytesIO(png)) as opened:
            assert opened.format == "PNG"
            number = int(name.removeprefix("name")) // 2
            batches = [batch for batch, of_split in which.batches if of_split == split]
            assert any((cifar_pixels(batch)[number] == np.asarray(opened)).all() for batch in batches)
    assert read_manifest(output).made["metric"] == "top1"
    assert main([which.name, "--source", str(tmp_path / "root"), "--output", str(tmp_path / "same")]) == 0
    assert read_manifest(tmp_path / "same").fingerprint == read_manifest(output).fingerprint


def test_nothing_of_torch_is_imported_by_the_processes_that_write() -> None:
    modules = "pipelines.build.open_source, pipelines.build.finished_shards"
    program = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout == b"False\n"


def test_processes_and_parts_make_the_same_bytes_as_one_process(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", pets()[0])
    options = ("--max-count", "2")
    alone = build("pets", root, tmp_path / "alone", *options)
    two = build("pets", root, tmp_path / "two", *options, "--workers", "2")
    for part in ("0/2", "1/2"):
        build("pets", root, tmp_path / "parts", *options, "--part", part)
    assert main(["merge", "--output", str(tmp_path / "parts"), "--workers", "1"]) == 0
    expected = {path.name: path.read_bytes() for path in alone.iterdir()}
    for directory in (two, tmp_path / "parts"):
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == expected


def encoded_as(kind: str, number: int) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(encoded(number))) as image:
        image.convert("P").save(buffer, kind)
    return buffer.getvalue()


def test_other_formats_by_the_name_of_jpg_become_png_and_stored_png_stays(tmp_path: Path) -> None:
    tree, placed = pets()
    paths = list(placed)
    png = encoded(50, "png")
    strange = {paths[0]: encoded_as("GIF", 51), paths[1]: encoded_as("BMP", 52), paths[2]: png}
    found = stored(build("pets", write_tree(tmp_path / "root", tree | strange), tmp_path / "out"))
    assert found[png] == placed[paths[2]]
    converted = [image for image in found if image.startswith(b"\x89PNG") and image != png]
    expected = []
    for data in (strange[paths[0]], strange[paths[1]]):
        with Image.open(io.BytesIO(data)) as image:
            expected.append(np.asarray(image.convert("RGB")).tolist())
    assert sorted(np.asarray(Image.open(io.BytesIO(image))).tolist() for image in converted) == sorted(expected)


def test_a_damaged_image_is_refused_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, placed = pets()
    first, second = list(placed)[:2]
    root = write_tree(tmp_path / "root", tree | {first: b"GIF89a", second: b"\xff\xd8\xff"})
    command = ("--name", "pets", "--root", root, "--output", tmp_path / "out", "--workers", "1")
    assert main(["torchvision", *map(str, command)]) == 2
    assert "2 bad images, listed with reasons in" in capsys.readouterr().err
    log = [json.loads(line) for line in (tmp_path / "out.errors.jsonl").read_text().splitlines()]
    assert {fault["name"] for fault in log} == {first, second}


def test_the_metric_stays_when_a_set_is_resized_or_divided(tmp_path: Path) -> None:
    whole = build("pets", write_tree(tmp_path / "root", pets()[0]), tmp_path / "out")
    for command in (
        ["reshuffle", str(whole), "--resize", "canvas:8", "--workers", "1"],
        ["subset", str(whole), "--per-class", "1"],
    ):
        assert main([*command, "--output", str(tmp_path / command[0])]) == 0
        assert read_manifest(tmp_path / command[0]).made["metric"] == "mean_per_class"


def test_numbers_that_are_not_those_of_the_paper_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("food101", write_tree(tmp_path / "root", food101()[0]), tmp_path / "out")
    said = "Food-101 has 75,750 + 25,250 images in 101 classes; here are 6 + 4 in 2, so scores will not compare"
    assert said in capsys.readouterr().err


Change = Callable[[Path], object]


def unlink(name: str) -> Change:
    return lambda root: (root / name).unlink()


def write(name: str, content: str | bytes) -> Change:
    return lambda root: (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "food101",
            lambda root: (root / "food-101/meta").rename(root / "elsewhere"),
            "{root}/food-101/meta: no such file or directory; Food-101 is looked for as torchvision unpacks it, with "
            "food-101/images, food-101/meta in --root; add --download true",
        ),
        (
            "cars",
            unlink("stanford_cars/cars_test_annos_withlabels.mat"),
            "{root}/stanford_cars/cars_test_annos_withlabels.mat: no such file or directory; Stanford Cars is looked "
            "for as torchvision unpacks it, with stanford_cars/devkit, stanford_cars/cars_train, "
            "stanford_cars/cars_test, stanford_cars/cars_test_annos_withlabels.mat in --root; nobody serves it any "
            "more, so it must be put there",
        ),
        (
            "aircraft",
            unlink("fgvc-aircraft-2013b/data/images_variant_test.txt"),
            "{root}: split test of FGVC Aircraft cannot be listed ({root}/fgvc-aircraft-2013b/data/"
            "images_variant_test.txt: No such file or directory); unpack its archives again",
        ),
        (
            "aircraft",
            write("fgvc-aircraft-2013b/data/images_variant_test.txt", "1 Zeppelin"),
            "{root}: split test of FGVC Aircraft cannot be listed (KeyError: 'Zeppelin'); unpack its archives again",
        ),
        (
            "flowers102",
            write("flowers-102/setid.mat", "no Matlab"),
            "{root}: split train of Oxford 102 Flowers cannot be listed (MatReadError: Mat file appears to be trunc",
        ),
        (
            "dtd",
            write("dtd/dtd/labels/val1.txt", "banded/banded_val.jpg"),
            "{root}: splits train and val of Describable Textures have not the same classes; their lists are not",
        ),
        (
            "pets",
            write("oxford-iiit-pet/annotations/test.txt", ""),
            "{root}: splits trainval and test of Oxford-IIIT Pets have not the same classes",
        ),
        (
            "pets",
            lambda root: [
                (root / f"oxford-iiit-pet/annotations/{part}.txt").write_text("Abyssinian_1 2 2 1")
                for part in ("trainval", "test")
            ],
            "Oxford-IIIT Pets has labels beyond its 1 classes; unpack its lists again",
        ),
        (
            "food101",
            write("food-101/meta/test.json", '{"waffles": [], "apple_pie": []}'),
            "split test of Food-101 is empty; unpack its lists again",
        ),
        (
            "food101",
            unlink("food-101/images/apple_pie/test0.jpg"),
            "{root}/food-101/images/apple_pie/test0.jpg: No such file or directory, but the lists of Food-101 name it; "
            "unpack its images again",
        ),
        (
            "caltech101",
            unlink("caltech101/101_ObjectCategories/accordion/image_0007.jpg"),
            "{root}/caltech101/101_ObjectCategories/accordion: 30 images; 30 to learn from and one to test are needed",
        ),
        (
            "sun397",
            unlink("SUN397/Testing_01.txt"),
            "{root}/SUN397/Testing_01.txt: no such file; torchvision does not fetch the lists of SUN397's splits: "
            "unpack https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip in {root}/SUN397",
        ),
        (
            "sun397",
            write("SUN397/Testing_01.txt", "/a/zoo/sun_1.jpg"),
            "{root}/SUN397/Testing_01.txt: '/a/zoo/sun_1.jpg' lies in none of the classes of ClassName.txt",
        ),
        (
            "sun397",
            write("SUN397/Training_01.txt", b"\xff\xfe"),
            "{root}/SUN397/Training_01.txt: not a text file in UTF-8; unpack it again",
        ),
    ],
)
def test_what_is_missing_or_damaged_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: Change, message: str
) -> None:
    root = write_tree(tmp_path / "root", LAYOUTS[name]()[0])
    change(root)
    line = refused(capsys, "torchvision", "--name", name, "--root", root, "--output", tmp_path / "out")
    assert line.startswith(message.format(root=root))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, f"error: argument --name: {reason}\n") for name, reason in LEFT_OUT.items()),
        (
            "imagenet",
            "error: argument --name: 'imagenet' is none of food101, cifar10, cifar100, sun397, cars, aircraft",
        ),
    ],
)
def test_a_set_that_is_not_among_them_is_refused_with_the_reason(
    capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["torchvision", "--name", name, "--root", "x", "--output", "y"])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_lists_of_sun_may_lie_beside_it(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", LAYOUTS["sun397"]()[0])
    before = list(torchvision_source("sun397", root, tmp_path / "spool", download=False).items)
    (root / "Partitions").mkdir()
    for name in ("Training_01.txt", "Testing_01.txt"):
        (root / "SUN397" / name).rename(root / "Partitions" / name)
    assert list(torchvision_source("sun397", root, tmp_path / "spool", download=False).items) == before


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of Food-101 that torchvision fetches from a file instead of the network."""
    archive = write_archive(tmp_path / "served.tar.gz", food101()[0])

    def fetch(url: str, filename: str | Path, chunk_size: int = 0) -> None:
        Path(filename).write_bytes(archive.read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)
    monkeypatch.setattr("torchvision.datasets.Food101._MD5", None)
    return archive


@pytest.mark.parametrize("flag", [["--download", "true"], ["--download"]])
def test_torchvision_fetches_what_is_not_there_once(tmp_path: Path, served: Path, flag: list[str]) -> None:
    root = tmp_path / "root"
    output = build("food101", root, tmp_path / "out", *flag)
    assert set(stored(output)) == {food101()[0][path] for path in food101()[1]}
    assert sorted(path.name for path in root.iterdir()) == ["food-101", "food-101.tar.gz"]
    served.unlink()
    build("food101", root, tmp_path / "again", *flag)


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, served: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served.write_bytes(served.read_bytes()[:500])
    root = tmp_path / "root"
    assert main(["torchvision", "--name", "food101", "--root", str(root), "--output", "out", "--download"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("build_shards: error: Food-101 cannot be fetched (")
    assert line.endswith(f"fetch it by other means and unpack food-101/images, food-101/meta in {root}")
    assert not list(root.iterdir())


def test_what_is_there_in_part_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tree(tmp_path / "root", {"food-101/images/x.jpg": b""})
    line = refused(
        capsys, "torchvision", "--name", "food101", "--root", root, "--output", tmp_path / "out", "--download", "true"
    )
    assert line == f"{root}/food-101: a part of Food-101 is there already; move it away, then fetch again"


def test_parts_do_not_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--root", tmp_path, "--output", tmp_path / "out", "--download", "true", "--part", "0/2")
    line = refused(capsys, "torchvision", "--name", "food101", *options)
    assert line == "--download: every part would fetch the same; fetch it first, with --dry-run instead of --part"


def test_the_table_of_the_guide_is_that_of_the_sets() -> None:
    guide = (ROOT / "docs" / "data.md").read_text()
    for name, which in TRANSFER_SETS.items():
        train, test = which.images
        metric = which.metric.replace("_", " ")
        assert f"| `{name}` | {which.title} | {which.classes} | {train:,} | {test:,} | {metric} |" in guide
