"""Fine-tuning on a few labels: encoder and classifier learn together from random crops and flips.

v1   encoder -> linear                          SGD, Nesterov     Chen et al. 2020, appendix B.5
v2   encoder -> first layer of head -> linear   LARS              Chen et al. 2020b (arXiv 2006.10029), section 3

No weight decay, no warm-up; half a cosine, as in the reference code.
"""

import math
from typing import Any

from torch import nn

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
from eval.evaluation import Evaluation
from eval.pretrained_head import first_head_layer
from eval.scores import ScoreBook, Task
from pipelines.order import steps_per_epoch

V1_BASE_LR, V2_BASE_LR = 0.05, 0.005
"""Of v1 times batch / 256 (appendix B.5), of v2 times the root of batch."""


def score_finetune(evaluation: Evaluation, book: ScoreBook) -> None:
    """Fine-tune on each share of the labels and score on test.

    Raises:
        EvaluationError: a class has no image in a share; the head's first layer is wanted and not there; the loss is
            not finite; or something cannot be written.
        DataError: a list of images cannot be used, or an image is damaged.
    """
    config = evaluation.subject.config.finetune
    if config.recipe == "v2":
        first_head_layer(evaluation)  # refused now, not after the first share's training
    for number, fraction in enumerate(config.fraction_numbers):
        _score(evaluation, book, fraction, config.list_files[number] if config.list_files else "")


def _score(evaluation: Evaluation, book: ScoreBook, fraction: float, list_file: str) -> None:
    subject, config = evaluation.subject, evaluation.subject.config.finetune
    variant = percent(fraction) + (" v2" if config.recipe == "v2" else "")
    train = part_of_labels(evaluation, fraction, list_file)
    name = f"finetune {variant}"
    batch = fitting_batch(name, config.batch, len(train))
    if config.recipe == "v1":
        peak_lr = (config.base_lr or V1_BASE_LR) * batch / 256
    else:
        peak_lr = (config.base_lr or V2_BASE_LR) * math.sqrt(batch)
    recipe = Recipe(
        steps=config.epochs_of(fraction) * steps_per_epoch(len(train), batch),
        batch=batch,
        peak_lr=peak_lr,
        optimizer="sgd" if config.recipe == "v1" else "lars",
        views=crop_flip_views(evaluation),
        precision=precision_of(evaluation, config.precision),
        seed=evaluation.seed,
    )
    training = Training(
        name=name,
        split=train,
        data=reading_of(evaluation, train),
        recipe=recipe,
        start=f"{evaluation.weights_sha256} {config.recipe}",
    )

    def network() -> Classifier:
        encoder: Any = own_encoder(evaluation, pretrained=True)
        features = encoder.num_features
        if config.recipe == "v2":
            encoder = nn.Sequential(encoder, first_head_layer(evaluation))  # as long as h
        return Classifier(encoder, features, evaluation.classes, evaluation.description, recipe)

    task = Task(protocol="finetune", variant=variant, settings=training.settings, test=subject.test, n_train=len(train))
    score_classifier(evaluation, book, task, training, network)
