"""What the folder source makes of trees of images."""

import pickle
from pathlib import Path

import pytest
from raw_images import Tree, labelled_tree, write_archive, write_tree

from pipelines.build.sources import Source, folder_source
from pipelines.errors import DataError
from pipelines.manifest import UNLABELLED


def source_of(tmp_path: Path, tree: Tree, form: str) -> Source:
    if form == "directory":
        return folder_source(write_tree(tmp_path / "photos", tree), tmp_path / "spool")
    return folder_source(write_archive(tmp_path / f"photos.{form}", tree), tmp_path / "spool")


def names(*paths: str) -> Tree:
    return dict.fromkeys(paths, b"?")


def labels(source: Source) -> dict[str, tuple[str, int]]:
    return {item.name: (item.split, item.label) for item in source.items}


FORMS = pytest.mark.parametrize("form", ["directory", "tar", "tar.gz", "zip"])


@FORMS
@pytest.mark.parametrize("root", ["", "some-root/"])
def test_splits_and_classes_come_from_the_directories(tmp_path: Path, form: str, root: str) -> None:
    tree = labelled_tree(train=2, test=1)
    source = source_of(tmp_path, {root + name: content for name, content in tree.items()}, form)
    assert source.name == "photos"
    assert source.classes == ("cat", "dog")
    assert source.items.splits == ("train", "test")
    assert labels(source) == {
        "test/cat/0.jpg": ("test", 0),
        "test/dog/0.jpg": ("test", 1),
        "train/cat/0.jpg": ("train", 0),
        "train/cat/1.jpg": ("train", 0),
        "train/dog/0.jpg": ("train", 1),
        "train/dog/1.jpg": ("train", 1),
    }
    assert {item.name: source.read(item) for item in source.items} == tree


@FORMS
def test_items_do_not_depend_on_the_order_of_listing(tmp_path: Path, form: str) -> None:
    tree = labelled_tree()
    backwards = dict(reversed(tree.items()))
    for number, order in enumerate((tree, backwards)):
        (tmp_path / str(number)).mkdir()
        source = source_of(tmp_path / str(number), order, form)
        assert [item.name for item in source.items] == sorted(tree)


@pytest.mark.parametrize("root", ["", "some-root/"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_images_without_class_directories_are_unlabelled(tmp_path: Path, root: str, split: str) -> None:
    source = source_of(tmp_path, names(f"{root}{split}1.jpg", f"{root}{split}2.png"), "directory")
    assert source.classes == ()
    assert labels(source) == dict.fromkeys([f"{split}1.jpg", f"{split}2.png"], ("train", UNLABELLED))


def test_without_split_directories_everything_is_train(tmp_path: Path) -> None:
    source = source_of(tmp_path, names("cat/1.jpg", "dog/deep/er/1.jpg"), "directory")
    assert labels(source) == {"cat/1.jpg": ("train", 0), "dog/deep/er/1.jpg": ("train", 1)}


def test_suffixes_decide_what_is_an_image_and_the_rest_is_a_fault_with_a_reason(tmp_path: Path) -> None:
    tree = names("a/1.jpg", "a/2.JPEG", "b/3.PNG", "b/4.gif", "README", "b/.DS_Store", "__MACOSX/b/._3.PNG")
    source = source_of(tmp_path, tree, "zip")
    assert [item.name for item in source.items] == ["a/1.jpg", "a/2.JPEG", "b/3.PNG"]
    assert [(fault.name, fault.reason) for fault in source.faults] == [
        ("README", "suffix '' is none of .jpg, .jpeg, .png"),
        ("b/4.gif", "suffix '.gif' is none of .jpg, .jpeg, .png"),
    ]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg"], "split test has no images of class 'b'"),
        (["train/a/1.jpg", "val/a/1.jpg", "val/c/1.jpg"], "split train has no images of class 'c'"),
        (["train/1.jpg", "test/a/1.jpg"], "split train has images outside of class directories"),
        (["a/1.jpg", "2.jpg"], "split train has images outside of class directories"),
        (["test/a/1.jpg", "val/a/1.jpg"], "has test, val, but no train directory"),
        (["train/a/1.jpg", "extra/1.jpg"], "has 'extra' beside the split directories"),
        (["train/a/1.jpg", "1.jpg"], "has images beside the split directories"),
        (["readme.txt"], "no images; expected .jpg, .jpeg, .png files"),
    ],
)
def test_an_unclear_tree_is_refused_with_one_line(tmp_path: Path, paths: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        source_of(tmp_path, names(*paths), "directory")
    assert str(tmp_path / "photos") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or directory"):
        folder_source(tmp_path / "nowhere", tmp_path / "spool")


def test_a_source_can_be_sent_to_another_process(tmp_path: Path) -> None:
    tree = labelled_tree(train=1, test=1)
    sent: Source = pickle.loads(pickle.dumps(source_of(tmp_path, tree, "zip")))
    assert {item.name: sent.read(item) for item in sent.items} == tree
