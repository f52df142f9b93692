"""What the cells of a study are trained on: a data set, or a part of it with equally many images of each class."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

from eval.errors import EvaluationError
from eval.studies.files import locked, say
from pipelines.manifest import SplitIndex, open_split
from pipelines.tools.subset import SubsetOptions, write_subset


def prepare_data(data_dir: str, images: int, directory: Path) -> SplitIndex:
    """The train split, or a part of it, which is made once as directory/data-IMAGES and shares the whole's shards.

    Args:
        data_dir: the data set.
        images: of train; 0 for all.
        directory: of the study.

    Raises:
        EvaluationError: so many images cannot be had in equal parts.
        DataError: the data set is not what its manifest says, or a class has too few images.
    """
    whole = open_split(data_dir, "train")
    if not images:
        return whole
    classes = len(whole.manifest.classes)
    if not classes or images % classes:
        near = f"; use {images // classes * classes or classes}" if classes else ""
        raise EvaluationError(f"images = {images}: equally many of each of {classes} classes are wanted{near}")
    part = directory / f"data-{images}"
    with locked(directory):
        if not (part / "manifest.json").exists():
            say(f"{part}: {images // classes} images of each class, chosen from {data_dir}")
            with redirect_stdout(sys.stderr):
                write_subset(SubsetOptions(directory=data_dir, output=part, per_class=images // classes, seed=0))
    split = open_split(str(part), "train")
    if split.manifest.made["whole"]["fingerprint"] != whole.manifest.fingerprint:
        raise EvaluationError(f"{part}: a part of another data set than {data_dir}; name another --output")
    return split
