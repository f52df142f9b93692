"""Score a run's frozen encoder, beside the controls that it has to beat.

    python -m eval.evaluate RUN_DIR --protocols knn,linear

Prints a table and writes RUN_DIR/eval/results.json. `--help` lists every field.
"""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.config import EvaluateConfig
from eval.errors import EvaluationError
from eval.report import REPRESENTATIONS, say, table, write_results
from model.errors import ModelError
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split, read_manifest
from train.arguments import parse
from train.config import PretrainConfig, load_config
from train.distributed import fail, share_cores
from train.errors import RunError

if TYPE_CHECKING:
    import torch

    from eval.features import LabelledFeatures
    from eval.knn import KnnScore
    from eval.linear import LinearScore
    from model.description import EncoderDescription

TEST_SPLITS = ("test", "val")
"""The first that a data set has is the one that scores are of."""
_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 2048, 256


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is to be evaluated, checked as far as is possible without loading weights or images."""

    config: EvaluateConfig
    run: PretrainConfig
    train: SplitIndex
    test: SplitIndex

    @property
    def classes(self) -> int:
        """Their number."""
        return len(self.train.manifest.classes)


def main() -> None:
    """Refuse what is wrong before torch is imported, then evaluate."""
    share_cores()
    try:
        config = parse(EvaluateConfig, name_run_dir(sys.argv[1:]), prog="evaluate")
        evaluation = open_evaluation(config)
        results = evaluate(evaluation)
        print(table(results, config.protocol_names), flush=True)
        path = Path(config.run_dir) / "eval" / "results.json"
        write_results(path, results)
        say(f"written to {path}")
    except (EvaluationError, RunError, DataError, ModelError) as error:
        fail("evaluate", error, show=True)


def name_run_dir(arguments: Sequence[str]) -> list[str]:
    """Put `--run_dir=` before the first argument that is neither a flag nor a flag's value."""
    named = list(arguments)
    for i, (before, word) in enumerate(zip(["", *named], named, strict=False)):
        is_value = before.startswith("--") and "=" not in before
        if not word.startswith("-") and not is_value:
            named[i] = f"--run_dir={word}"
            break
    return named


def open_evaluation(config: EvaluateConfig) -> Evaluation:
    """Read the run's configuration and open its data.

    Raises:
        EvaluationError: there is no run, or no probe can be trained and tested on the data.
        RunError: the run's configuration is invalid.
        DataError: the data set directory does not hold what its manifest says.
    """
    run_dir = Path(config.run_dir)
    if not (run_dir / "config.yaml").is_file():
        raise EvaluationError(f"{run_dir}: no config.yaml; give the run directory of train/pretrain.py")
    run = load_config(run_dir / "config.yaml")
    directory = config.data.dir or run.data.dir
    splits = read_manifest(directory).splits
    tested = [name for name in TEST_SPLITS if name in splits]
    if not tested:
        raise EvaluationError(f"{directory}: no split {' or '.join(TEST_SPLITS)}; it has {', '.join(sorted(splits))}")
    train, test = open_split(directory, "train"), open_split(directory, tested[0])
    check_labels(train)
    check_labels(test)
    unknown = np.setdiff1d(test.samples["label"], train.samples["label"])
    if len(unknown):
        names = ", ".join(train.manifest.classes[label] for label in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise EvaluationError(f"{directory}: split train has no image of {names}{more}, but split {test.name} has")
    return Evaluation(config=config, run=run, train=train, test=test)


def check_labels(split: SplitIndex) -> None:
    """Check that every sample has a label.

    Raises:
        EvaluationError: one has none, or the split is empty.
    """
    label = split.samples["label"]
    unlabelled = int(((label < 0) | (label >= len(split.manifest.classes))).sum())
    if unlabelled or not len(split):
        raise EvaluationError(
            f"{split.location}: {unlabelled} of {len(split)} images of split {split.name} have no label; "
            "probes need labelled data: name another data set with --data.dir"
        )


def evaluate(evaluation: Evaluation) -> dict[str, Any]:
    """Extract features, run the protocols on them and on the controls'.

    Returns:
        What results.json holds; every score a share in [0, 1].

    Raises:
        EvaluationError: the device is not there, features are not finite, or a protocol cannot run on this data.
        ModelError: the encoder is missing or damaged.
        DataError: an image is damaged.
    """
    from eval.controls import chance
    from model.encoder_file import load_encoder

    config, start = evaluation.config, time.perf_counter()
    device = choose_device(config.device)
    encoder, description = load_encoder(Path(config.run_dir) / "encoder")
    train, test = extract_all(evaluation, encoder, description, device)
    scores: dict[str, dict[str, Any]] = {name: {} for name in REPRESENTATIONS}
    for protocol in config.protocol_names:
        for name, title in REPRESENTATIONS.items():
            began = time.perf_counter()
            score = run_protocol(protocol, train[name], test[name], evaluation, device)
            scores[name][protocol] = asdict(score)
            say(f"{protocol}, {title}: {score.top1:.1%} in {time.perf_counter() - began:.1f} s")
    controls = [name for name in REPRESENTATIONS if name != "encoder"]
    manifest = evaluation.test.manifest
    return {
        **scores["encoder"],
        "controls": {
            "chance": chance(train["encoder"].labels, test["encoder"].labels),
            **{name: {protocol: score["top1"] for protocol, score in scores[name].items()} for name in controls},
        },
        "control_fits": {name: scores[name] for name in controls},
        "data": {
            "name": manifest.name,
            "fingerprint": manifest.fingerprint,
            "split": evaluation.test.name,
            "n_train": len(evaluation.train),
            "n_test": len(evaluation.test),
        },
        "encoder": asdict(description),
        "seconds": round(time.perf_counter() - start, 1),
    }


def choose_device(asked: str) -> "torch.device":
    """The device to compute on.

    Raises:
        EvaluationError: CUDA was asked for and is not there.
    """
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise EvaluationError("device = cuda: torch finds no CUDA device here; use auto or cpu")
    on_cuda = asked != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")


def extract_all(
    evaluation: Evaluation, encoder: Any, description: "EncoderDescription", device: "torch.device"
) -> tuple[dict[str, "LabelledFeatures"], dict[str, "LabelledFeatures"]]:
    """Every representation of train and of test, by name."""
    from eval.controls import calibrate_batchnorm, random_encoder, raw_pixels, spread
    from eval.features import FrozenEncoder, Representation, extract, fixed_views

    data, size, batch = evaluation.run.data, description.image_size, evaluation.config.batch
    untrained = FrozenEncoder(random_encoder(description.encoder, size, evaluation.run.seed), description, device)
    some = spread(evaluation.train, _CALIBRATION_IMAGES)
    even_batch = math.ceil(len(some) / math.ceil(len(some) / _CALIBRATION_BATCH))
    calibrate_batchnorm(untrained, fixed_views(some, data, size, batch=even_batch, device=device))
    representations: dict[str, Representation] = {
        "encoder": FrozenEncoder(encoder, description, device),
        "random_init": untrained,
        "raw_pixels": raw_pixels,
    }

    def extracted(split: SplitIndex) -> dict[str, "LabelledFeatures"]:
        began = time.perf_counter()
        features = extract(split, data, size, representations, batch=batch, device=device)
        if not sys.stderr.isatty():  # where there is no bar
            say(f"{split.name}: features of {len(split):,} images in {time.perf_counter() - began:.1f} s")
        return features

    return extracted(evaluation.train), extracted(evaluation.test)


def run_protocol(
    protocol: str,
    train: "LabelledFeatures",
    test: "LabelledFeatures",
    evaluation: Evaluation,
    device: "torch.device",
) -> "KnnScore | LinearScore":
    """One number, and how it came about, from the features of both splits."""
    from eval.knn import score_knn
    from eval.linear import score_linear

    if protocol == "knn":
        return score_knn(train, test, evaluation.classes, evaluation.config.knn, device)
    return score_linear(train, test, evaluation.classes, device)


if __name__ == "__main__":
    main()
