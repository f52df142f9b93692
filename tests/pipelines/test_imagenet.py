"""ImageNet's official files: a tiny version of our own, and the small one where it is there."""

import tarfile
from pathlib import Path

import pytest
from official_imagenet import TRAIN, VAL, VAL_IDS, WNIDS, official, unpacked
from raw_images import encoded, tar_bytes, write_tree

from pipelines.build.imagenet import imagenet_source
from pipelines.build.sources import Source
from pipelines.build_shards import main
from pipelines.errors import DataError
from pipelines.manifest import open_split, read_manifest


def content(source: Source) -> dict[str, tuple[str, bytes]]:
    """Class and bytes of every image."""
    return {item.name: (source.classes[item.label], source.read(item)) for item in source.items}


EXPECTED = {name: (name.split("/")[1], data) for name, data in TRAIN.items()} | {
    f"val/{name}": (WNIDS[number - 1], data) for (name, data), number in zip(VAL.items(), VAL_IDS, strict=True)
}


@pytest.mark.parametrize("form", [official, unpacked])
def test_labels_are_positions_among_the_sorted_wordnet_ids(tmp_path: Path, form: type) -> None:
    source = imagenet_source(form(tmp_path / "raw"))
    assert source.classes == ("n01000000", "n02000000", "n03000000")
    assert content(source) == EXPECTED
    assert [item.name for item in source.items] == sorted(EXPECTED)
    assert source.notes == ()


def test_the_official_files_and_the_unpacked_tree_make_the_same_data_set(tmp_path: Path) -> None:
    for form in (official, unpacked):
        command = ["imagenet", "--source", str(form(tmp_path / form.__name__)), "--workers", "1"]
        assert main([*command, "--output", str(tmp_path / "out" / form.__name__)]) == 0
    first, second = [{path.name: path.read_bytes() for path in out.iterdir()} for out in (tmp_path / "out").iterdir()]
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["official", "out", "unpacked"]


def test_validation_images_in_class_directories_need_no_devkit(tmp_path: Path) -> None:
    val = {f"val/{WNIDS[number - 1]}/{name}": data for (name, data), number in zip(VAL.items(), VAL_IDS, strict=True)}
    source = imagenet_source(write_tree(tmp_path, {**TRAIN, **val}))
    assert {data for _, data in content(source).values()} == {data for _, data in EXPECTED.values()}
    assert all(name.split("/")[1] == wnid for name, (wnid, _) in content(source).items())


def test_without_val_there_is_only_train_and_a_word_about_it(tmp_path: Path) -> None:
    root = official(tmp_path)
    (root / "ILSVRC2012_img_val.tar").unlink()
    source = imagenet_source(root)
    assert source.items.splits == ("train",)
    assert source.notes == (f"no ILSVRC2012_img_val.tar and no val/ in {root}: there will be no val split",)
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    assert imagenet_source(root).classes == source.classes


def test_a_class_without_train_images_keeps_its_label_and_is_told(tmp_path: Path) -> None:
    some = {name: data for name, data in TRAIN.items() if "n01000000" not in name}
    source = imagenet_source(official(tmp_path, some))
    assert len(source.classes) == 3
    assert source.notes == ("train has no images of 1 of the devkit's 3 classes",)


def test_files_that_are_no_images_are_faults(tmp_path: Path) -> None:
    source = imagenet_source(official(tmp_path, {**TRAIN, "train/n01000000/x.txt": b"?"}, {**VAL, "readme.md": b"?"}))
    assert [fault.name for fault in source.faults] == ["train/n01000000/x.txt", "val/readme.md"]
    assert content(source) == EXPECTED


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def replaced(old: bytes, new: bytes) -> bytes:
    return tar_bytes({f"n0{n}000000.tar": tar_bytes({"a.JPEG": encoded(n)}) for n in range(1, 4)}).replace(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "ILSVRC2012_img_train.tar").unlink(), "neither ILSVRC2012_img_train.tar nor train/"),
        (
            lambda root: (root / "ILSVRC2012_devkit_t12.tar.gz").unlink(),
            "validation images without labels: no ILSVRC20",
        ),
        (
            lambda root: cut(root / "ILSVRC2012_img_train.tar", 20_000),
            "ILSVRC2012_img_train.tar: .*(damaged|unexpected)",
        ),
        (lambda root: cut(root / "ILSVRC2012_img_val.tar", 3_000), "ILSVRC2012_img_val.tar: .*damaged"),
        (lambda root: cut(root / "ILSVRC2012_img_val.tar", 0), "ILSVRC2012_img_val.tar: .*damaged"),
        (
            lambda root: cut(root / "ILSVRC2012_devkit_t12.tar.gz", 200),
            "devkit_t12.tar.gz: not a tar.gz archive, or a d",
        ),
        (
            lambda root: (root / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes({"n01.jpg": b"x"})),
            "member 'n01.jpg'; expected only tars of classes",
        ),
        (
            lambda root: (root / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes({"n09999999.tar": tar_bytes({})})),
            "class n09999999 of train is not in the devkit",
        ),
        (
            lambda root: (root / "ILSVRC2012_img_train.tar").write_bytes(
                tar_bytes({"n01000000.tar": b"not a tar" * 99})
            ),
            "its member n01000000.tar is damaged",
        ),
        (
            lambda root: (root / "ILSVRC2012_img_val.tar").write_bytes(
                tar_bytes({"ILSVRC2012_val_00000006.JPEG": b""})
            ),
            "has labels of 5 validation images, but there is a 6",
        ),
        (
            lambda root: (root / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes({"cat.JPEG": b""})),
            "val/cat.JPEG: expected names such as ILSVRC2012_val_00000001.JPEG",
        ),
    ],
)
def test_damaged_and_missing_files_are_refused_with_one_line(tmp_path: Path, change: object, message: str) -> None:
    root = official(tmp_path)
    change(root)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as caught:
        imagenet_source(root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def mini(imagenet_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("mini") / "out"
    assert main(["imagenet", "--source", str(imagenet_mini), "--output", str(output), "--workers", "2"]) == 0
    return output


def stored(directory: Path, name: str) -> dict[bytes, str]:
    """Class of every image of a split."""
    split = open_split(directory, name)
    shards = [(directory / shard.file).read_bytes() for shard in split.shards]
    return {
        shards[record["shard"]][record["offset"] : record["offset"] + record["size"]]: split.manifest.classes[
            record["label"]
        ]
        for record in split.samples
    }


def test_the_small_imagenet_has_the_labels_of_its_sorted_wordnet_ids(imagenet_mini: Path, mini: Path) -> None:
    manifest = read_manifest(mini)
    wnids = {}
    with tarfile.open(imagenet_mini / "ILSVRC2012_img_train.tar") as outer:
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                for image in inner:
                    wnids[inner.extractfile(image).read()] = member.name.removesuffix(".tar")  # type: ignore[union-attr]
    assert manifest.classes == tuple(sorted(set(wnids.values())))
    assert stored(mini, "train") == wnids


def test_the_small_imagenet_has_the_validation_labels_of_its_devkit(imagenet_mini: Path, mini: Path) -> None:
    from scipy.io import loadmat

    with tarfile.open(imagenet_mini / "ILSVRC2012_devkit_t12.tar.gz") as kit:
        files = {member.name.rpartition("/")[2]: kit.extractfile(member) for member in kit if member.isfile()}
        synsets = loadmat(files["meta.mat"], squeeze_me=True)["synsets"]
        truth = files["ILSVRC2012_validation_ground_truth.txt"].read().split()  # type: ignore[union-attr]
    wnid_by_id = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    expected = {}
    with tarfile.open(imagenet_mini / "ILSVRC2012_img_val.tar") as images:
        for member in images:
            number = int(member.name[-13:-5])
            data = images.extractfile(member).read()  # type: ignore[union-attr]
            expected[data] = wnid_by_id[int(truth[number - 1])]
    assert stored(mini, "val") == expected
