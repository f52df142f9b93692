"""What the protocols that train a classifier share: what they start from, what they see, and the way to a score."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from eval.classifier import Classifier
from eval.classifier_file import Progress, forget_progress
from eval.classifier_run import Training, answers, learn
from eval.controls import random_encoder
from eval.errors import EvaluationError
from eval.evaluation import Evaluation
from eval.results import Score
from eval.scores import Answer, ScoreBook, Task
from eval.training_config import Precision
from model.native_precision import native_precision
from pipelines.config import DataConfig, ViewsConfig
from pipelines.label_subsets import balanced_subset, listed_subset, take
from pipelines.manifest import SplitIndex


def score_classifier(
    evaluation: Evaluation, book: ScoreBook, task: Task, training: Training, network: Callable[[], Classifier]
) -> Score:
    """The score of a classifier, which is trained if that has not been done.

    Args:
        evaluation: under way.
        book: of the scores.
        task: what is asked.
        training: how it is trained; kept after each epoch, until the score is in the book.
        network: makes it as it starts.

    Raises:
        DivergedError: the loss is not finite.
        DataError: an image is damaged.
        EvaluationError: something cannot be written.
    """
    directory = training_directory(evaluation)

    def compute() -> Answer:
        classifier = network()
        progress = learn(training, classifier, evaluation.accelerator, directory)
        batch, device = evaluation.subject.config.batch, evaluation.device
        predictions = answers(classifier, task.test, training, batch, device)
        return Answer(predictions=predictions, details=details_of(training, progress))

    score = book.score(task, compute)
    forget_progress(training.kept_in(directory))
    return score


def details_of(training: Training, progress: Progress) -> dict[str, Any]:
    """What a reader of the score wants to know of the training."""
    recipe = training.recipe
    return {
        "epochs": round(recipe.steps / training.steps_per_epoch, 2),
        "steps": recipe.steps,
        "batch": recipe.batch,
        "peak_lr": recipe.peak_lr,
        "weight_decay": recipe.weight_decay,
        "optimizer": recipe.optimizer,
        "precision": recipe.precision,
        "seed": recipe.seed,
        "losses": [round(loss, 4) for loss in progress.losses],
        "training_seconds": progress.seconds,
    }


def training_directory(evaluation: Evaluation) -> Path:
    """Where trainings are kept while they go on."""
    return evaluation.subject.output / "training"


def own_encoder(evaluation: Evaluation, *, pretrained: bool) -> Any:
    """A copy of the encoder to learn with, in training mode; or one with random weights, those the run started from."""
    description = evaluation.description
    encoder = random_encoder(description.encoder, description.image_size, evaluation.seed)
    if pretrained:
        encoder.load_state_dict(evaluation.encoder.state_dict())
    return encoder.train()


def crop_flip_views(evaluation: Evaluation) -> ViewsConfig:
    """Random crops and flips, as the run draws them, and nothing of colour."""
    if evaluation.subject.run is None:
        views = ViewsConfig(size=evaluation.description.image_size)
    else:
        run = evaluation.subject.run.views
        views = ViewsConfig(size=run.size, engine=run.engine, reference=run.reference, interpolation=run.interpolation)
    return replace(views, jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0)


def precision_of(evaluation: Evaluation, asked: Precision) -> Literal["fp32", "bf16"]:
    """The one that is asked for, or what `auto` comes to on the device."""
    return native_precision(evaluation.device.type) if asked == "auto" else asked


def reading_of(evaluation: Evaluation, split: SplitIndex) -> DataConfig:
    """How a split is read to learn from: decoded once where that fits, and no damaged image replaced by another."""
    data = evaluation.data
    cache = "auto" if data.cache == "none" else data.cache
    return replace(data, dir=split.location, cache=cache, bad_sample_budget=0.0)


def part_of_labels(evaluation: Evaluation, fraction: float, list_file: str) -> SplitIndex:
    """The share of train that is learnt from: by a list, or equally many of every class by the run's seed.

    Args:
        evaluation: under way.
        fraction: in (0, 1].
        list_file: file names, one a line; empty chooses by the seed.

    Raises:
        DataError: the list cannot be used.
        EvaluationError: the list leaves out a class.
    """
    train = evaluation.subject.train
    if list_file:
        part = take(train, listed_subset(train, Path(list_file)))
        _refuse_missing_classes(list_file, train, part)
        return part
    return train if fraction == 1 else take(train, balanced_subset(train, fraction, evaluation.seed))


def percent(fraction: float) -> str:
    """As variants are named: 1 %."""
    return f"{100 * fraction:g} %"


def _refuse_missing_classes(list_file: str, train: SplitIndex, part: SplitIndex) -> None:
    missing = sorted(set(train.samples["label"].tolist()) - set(part.samples["label"].tolist()))
    if missing:
        names = ", ".join(train.manifest.classes[label] for label in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise EvaluationError(f"{list_file}: names no image of {names}{more}; each class needs at least one")
