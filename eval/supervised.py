"""The baseline: the same network from random weights, trained with labels, by the same loop."""

from eval.classifier import Classifier, Recipe
from eval.classifier_run import Training, fitting_batch
from eval.classifier_score import (
    crop_flip_views,
    own_encoder,
    part_of_labels,
    percent,
    precision_of,
    reading_of,
    score_classifier,
)
from eval.errors import EvaluationError
from eval.evaluation import Evaluation
from eval.scores import ScoreBook, Task
from pipelines.config import ViewsConfig
from pipelines.order import steps_per_epoch


def score_supervised(evaluation: Evaluation, book: ScoreBook) -> None:
    """Train on each share of the labels and score on test.

    Raises:
        EvaluationError: a default is the run's and there is none; a class has no image in a share; the loss is not
            finite; or something cannot be written.
        DataError: a list of images cannot be used, or an image is damaged.
    """
    config = evaluation.subject.config.supervised
    views = _views(evaluation)
    epochs = [_epochs(evaluation, fraction) for fraction in config.fraction_numbers]
    for number, fraction in enumerate(config.fraction_numbers):
        list_file = config.list_files[number] if config.list_files else ""
        _score(evaluation, book, fraction, list_file, epochs[number], views)


def _score(
    evaluation: Evaluation, book: ScoreBook, fraction: float, list_file: str, epochs: int, views: ViewsConfig
) -> None:
    subject, config, description = evaluation.subject, evaluation.subject.config.supervised, evaluation.description
    variant = percent(fraction) + (" pretraining's views" if config.augmentation == "run" else "")
    train = part_of_labels(evaluation, fraction, list_file)
    name = f"supervised {variant}"
    batch = fitting_batch(name, config.batch, len(train))
    steps = epochs * steps_per_epoch(len(train), batch)
    recipe = Recipe(
        steps=steps,
        batch=batch,
        peak_lr=config.base_lr * batch / 256,
        warmup_steps=round(config.warmup_share * steps),
        weight_decay=config.weight_decay,
        views=views,
        precision=precision_of(evaluation, config.precision),
        seed=evaluation.seed,
    )
    training = Training(
        name=name, split=train, data=reading_of(evaluation, train), recipe=recipe, start="random weights"
    )

    def network() -> Classifier:
        encoder = own_encoder(evaluation, pretrained=False)
        return Classifier(encoder, encoder.num_features, evaluation.classes, description, recipe)

    task = Task(
        protocol="supervised", variant=variant, settings=training.settings, test=subject.test, n_train=len(train)
    )
    score_classifier(evaluation, book, task, training, network)


def _views(evaluation: Evaluation) -> ViewsConfig:
    if evaluation.subject.config.supervised.augmentation == "crop_flip":
        return crop_flip_views(evaluation)
    if evaluation.subject.run is None:
        raise EvaluationError("supervised.augmentation = run: an encoder alone has no run; use crop_flip")
    return evaluation.subject.run.views


def _epochs(evaluation: Evaluation, fraction: float) -> int:
    run = evaluation.subject.run
    epochs = evaluation.subject.config.supervised.epochs_of(fraction, run.schedule.epochs if run else None)
    if epochs is None:
        raise EvaluationError(
            "supervised.epochs: the default for all labels is the run's, and an encoder alone has no run; set it"
        )
    return epochs
