"""ImageNet's official files in tiny, with images of our own."""

import gzip
import io
from pathlib import Path

import numpy as np
from raw_images import Tree, encoded, tar_bytes, write_tree
from scipy.io import savemat

# By ILSVRC2012_ID from 1 on; the last is an inner node of WordNet, without images.
WNIDS = ("n03000000", "n01000000", "n02000000", "n00000001")
VAL_IDS = (3, 1, 2, 3, 1)
TRAIN = {f"train/{wnid}/{wnid}_{n}.JPEG": encoded(10 * k + n) for k, wnid in enumerate(WNIDS[:3]) for n in range(4)}
VAL = {f"ILSVRC2012_val_{n:08d}.JPEG": encoded(90 + n) for n in range(1, 6)}


def devkit() -> Tree:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, "word", int(number == 4)) for number, wnid in enumerate(WNIDS, 1)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    truth = "".join(f"{number}\n" for number in VAL_IDS)
    return {"data/meta.mat": meta.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": truth.encode()}


def official(root: Path, train: Tree | None = None, val: Tree | None = None) -> Path:
    """The three files; in the train tar classes and images are not in order."""
    images = TRAIN if train is None else train
    classes: dict[str, Tree] = {}
    for name, content in reversed(images.items()):
        _, wnid, file = name.split("/")
        classes.setdefault(wnid, {})[file] = content
    kit = {f"ILSVRC2012_devkit_t12/{name}": content for name, content in devkit().items()}
    files = {
        "ILSVRC2012_img_train.tar": tar_bytes({f"{wnid}.tar": tar_bytes(tree) for wnid, tree in classes.items()}),
        "ILSVRC2012_img_val.tar": tar_bytes(VAL if val is None else val),
        "ILSVRC2012_devkit_t12.tar.gz": gzip.compress(tar_bytes(kit)),
    }
    return write_tree(root, files)


def unpacked(root: Path) -> Path:
    kit = {f"ILSVRC2012_devkit_t12/{name}": content for name, content in devkit().items()}
    return write_tree(root, {**TRAIN, **{f"val/{name}": content for name, content in VAL.items()}, **kit})
