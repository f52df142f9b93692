"""What is to be evaluated and on which data, checked as far as is possible without torch, weights or images."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eval.config import EvaluateConfig
from eval.errors import EvaluationError
from pipelines.manifest import SplitIndex, open_split, read_manifest
from train.config import PretrainConfig, load_config

TEST_SPLITS = ("test", "val")
"""The first that a data set has is the one that scores are of."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder's files, and data with labels."""

    config: EvaluateConfig
    encoder_dir: Path
    """Of encoder.json and model.safetensors."""
    output: Path
    """Where results.json goes."""
    run: PretrainConfig | None
    """What the encoder was pretrained by; None if only the encoder is there."""
    train: SplitIndex
    test: SplitIndex


def open_subject(config: EvaluateConfig) -> Subject:
    """Read the run's configuration and open the data.

    Raises:
        EvaluationError: there is neither run nor encoder, or no probe can be trained and tested on the data.
        RunError: the run's configuration is invalid.
        DataError: the data set directory does not hold what its manifest says.
    """
    directory = Path(config.run_dir)
    run = None
    if (directory / "config.yaml").is_file():
        run = load_config(directory / "config.yaml")
    elif not (directory / "encoder.json").is_file():
        raise EvaluationError(
            f"{directory}: no config.yaml and no encoder.json; give the run directory of train/pretrain.py or that of "
            "an encoder"
        )
    data_dir = config.data.dir or (run.data.dir if run else "")
    if not data_dir:
        raise EvaluationError(f"{directory}: an encoder does not say which data to use; name it with --data.dir")
    train, test = open_labelled(data_dir)
    if run is not None:
        run = replace(run, data=replace(run.data, dir=data_dir))
    return Subject(
        config=config,
        encoder_dir=directory / "encoder" if run else directory,
        output=directory / "eval",
        run=run,
        train=train,
        test=test,
    )


def open_labelled(directory: str) -> tuple[SplitIndex, SplitIndex]:
    """The split to learn from and the one to be scored on, all of whose images have labels that both know.

    Raises:
        EvaluationError: there is no such split, or an image has no label, or classes differ.
        DataError: the data set directory does not hold what its manifest says.
    """
    splits = read_manifest(directory).splits
    tested = [name for name in TEST_SPLITS if name in splits]
    if not tested:
        raise EvaluationError(f"{directory}: no split {' or '.join(TEST_SPLITS)}; it has {', '.join(sorted(splits))}")
    train, test = open_split(directory, "train"), open_split(directory, tested[0])
    _check_labels(train)
    _check_labels(test)
    unknown = np.setdiff1d(test.samples["label"], train.samples["label"])
    if len(unknown):
        names = ", ".join(train.manifest.classes[label] for label in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise EvaluationError(f"{directory}: split train has no image of {names}{more}, but split {test.name} has")
    return train, test


def _check_labels(split: SplitIndex) -> None:
    label = split.samples["label"]
    unlabelled = int(((label < 0) | (label >= len(split.manifest.classes))).sum())
    if unlabelled or not len(split):
        raise EvaluationError(
            f"{split.location}: {unlabelled} of {len(split)} images of split {split.name} have no label; "
            "probes need labelled data: name another data set with --data.dir"
        )
