"""What a reader of the docs has in the directory in which he types their commands, in tiny."""

import shutil
from pathlib import Path

from evaluated_run import evaluated_run, write_log
from foreign_shards import samples, write_shard
from markdown_pages import ROOT
from official_imagenet import official
from raw_images import encoded, labelled_tree, write_archive, write_tree
from tiny_run import rename, tiny_run
from tiny_shards import tiny_shards

from model.config import EncoderConfig
from pipelines.build_shards import main as build_shards

CHECKOUT = ("train", "examples", "ops")
"""Folders of the checkout in which commands name files."""


def make_stock(directory: Path) -> Path:
    """Everything that a documented command reads, under the name by which it is called there."""
    data = {
        name: tiny_shards(directory / "data" / name, images_per_class=100, classes=4, side=32, encoding="jpg")
        for name in ("mine", "cifar10", "textures", "photos", "photos-72")
    }
    for name in ("pets", "cars"):
        rename(tiny_shards(directory / "data" / name, images_per_class=8, classes=3, side=32, encoding="jpg"), name)
    wide = EncoderConfig(name="resnet18", stem="imagenet")  # which all libraries have
    for run, encoder in (("mine", wide), ("cifar10", None), ("base", None), ("photos", None)):
        tiny_run(directory / "runs" / run, data["mine"], encoder=encoder)
        write_log(directory / "runs" / run / "metrics.jsonl", range(1, 13))
    evaluated_run(directory / "runs" / "no-colour", data["mine"])
    for name in ("images.tar.gz", "my-images.tar.gz", "cifar10-images.tar.gz"):
        write_archive(directory / name, labelled_tree(train=100, test=20))
    (directory / "ILSVRC2012").mkdir()
    official(directory / "ILSVRC2012")
    for number in range(1024):
        shard = f"tars/imagenet1k-train-{number:04d}.tar"
        write_shard(directory / shard, samples(f"n{2 * number:05d}", f"n{2 * number + 1:05d}"))
    write_tree(directory / "photos", {f"{number}.jpg": encoded(number) for number in range(4)})
    assert build_shards(["index", str(directory / "tars"), "--output", str(directory / "data" / "in1k")]) == 0
    (directory / "1percent.txt").write_text("".join(f"{number:06d}\n" for number in range(4)))  # of data/mine
    (directory / "10percent.txt").write_text("".join(f"n{number:05d}\n" for number in range(40)))  # of data/in1k
    return directory


def lay_out(stock: Path, directory: Path, text: str) -> Path:
    """Copy what the text mentions; runs know their data by its path in the stock."""
    for folder in CHECKOUT:
        (directory / folder).symlink_to(ROOT / folder)
    for holder in ("data", "runs"):
        (directory / holder).mkdir()
    for path in [*stock.iterdir(), *(stock / "data").iterdir(), *(stock / "runs").iterdir()]:
        name = path.relative_to(stock)
        is_meant = str(name) in text or (str(name) == "tars" and "data/in1k" in text)  # which is their index
        if is_meant and str(name) not in ("data", "runs"):
            target = directory / name
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    return directory
