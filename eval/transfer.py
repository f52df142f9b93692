"""Transfer to other data sets: a linear classifier on frozen features, and fine-tuning (Chen et al. 2020, app. B.8).

linear      features of the central square -> logistic regression by L-BFGS
finetune    train, less a tenth -> the tenth: choose rate and decay -> all of train, the same number of updates -> test

Fine-tuning is SGD with Nesterov momentum on random crops and flips. Its rate falls by half a cosine, as in Kornblith et
al. 2019 (arXiv 1805.08974), whose protocol this is. The score is the data set's own: mean per class where it says so.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from eval.classifier import Classifier, Recipe
from eval.classifier_file import forget_progress
from eval.classifier_run import DivergedError, Training, answers, fitting_batch, learn
from eval.classifier_score import (
    crop_flip_views,
    details_of,
    own_encoder,
    precision_of,
    reading_of,
    training_directory,
)
from eval.confidence import measure
from eval.errors import EvaluationError
from eval.evaluation import Evaluation
from eval.features import FrozenEncoder, LabelledFeatures, extract, split_labels
from eval.held_out import held_out_rows
from eval.linear import answer_linear
from eval.results import say
from eval.scores import Answer, ScoreBook, Task
from eval.subject import open_labelled
from model.collectives import rank
from pipelines.label_subsets import take
from pipelines.manifest import SplitIndex
from pipelines.order import steps_per_epoch


@dataclass(frozen=True, kw_only=True)
class Target:
    """A data set that is transferred to."""

    train: SplitIndex
    test: SplitIndex

    @property
    def name(self) -> str:
        """As the manifest has it."""
        return self.train.manifest.name

    @property
    def classes(self) -> int:
        """Their number."""
        return len(self.train.manifest.classes)

    @property
    def metric(self) -> str:
        """top1, or mean_per_class where the data set was made so."""
        return str(self.train.manifest.made.get("metric", "top1"))


def score_transfer(evaluation: Evaluation, book: ScoreBook) -> None:
    """Score the encoder on each data set, linear and fine-tuned.

    Raises:
        EvaluationError: a data set cannot be learnt from or tested on, two have the same name, every pair of the grid
            diverges, or something cannot be written.
        DataError: a directory does not hold what its manifest says, or an image is damaged.
    """
    config = evaluation.subject.config.transfer
    targets = [Target(train=train, test=test) for train, test in map(open_labelled, config.directories)]
    for number, target in enumerate(targets):
        if not _held_out(target).any():
            raise EvaluationError(
                f"{target.train.location}: no class has a second train image that could be held out, which choosing an "
                "L2 strength and a learning rate needs"
            )
        same = [other for other in targets[:number] if other.name == target.name]
        if same:
            raise EvaluationError(
                f"transfer.dirs: {same[0].train.location} and {target.train.location} are both named {target.name}; "
                "score them in runs of their own"
            )
    for target in targets:
        _score_linear(evaluation, book, target)
        if config.finetune:
            _score_finetune(evaluation, book, target)


def _score_linear(evaluation: Evaluation, book: ScoreBook, target: Target) -> None:
    def features(split: SplitIndex) -> LabelledFeatures:
        encoder = FrozenEncoder(evaluation.encoder, evaluation.description, evaluation.device)
        data, size = reading_of(evaluation, split), evaluation.description.image_size
        batch = evaluation.subject.config.batch
        return extract(split, data, size, {"encoder": encoder}, batch=batch, device=evaluation.device)["encoder"]

    def compute() -> Answer:
        train, test = features(target.train), features(target.test)
        return answer_linear(train, test, target.classes, evaluation.device)

    settings = {
        "train": f"{target.train.manifest.fingerprint}/{target.train.name}",
        "canvas": evaluation.data.canvas,
    }
    book.score(_task(target, "linear", settings), compute)


def _score_finetune(evaluation: Evaluation, book: ScoreBook, target: Target) -> None:
    config, directory = evaluation.subject.config.transfer, training_directory(evaluation)
    batch = fitting_batch(f"transfer {target.name} finetune", config.batch, len(target.train))
    trainings = [
        _training(evaluation, target, batch, rate, decay)
        for rate in config.learning_rate_numbers
        for decay in config.weight_decay_numbers
    ]
    trials = _trials(target, trainings) if len(trainings) > 1 else []
    task = _task(target, "finetune", {"trainings": [training.settings for training in (*trials, *trainings)]})

    def compute() -> Answer:
        chosen, share = _choose(evaluation, target, trials) if trials else (0, None)
        training = trainings[chosen]
        classifier = _network(evaluation, target, training)
        progress = learn(training, classifier, evaluation.accelerator, directory)
        predictions = answers(classifier, target.test, training, evaluation.subject.config.batch, evaluation.device)
        details = details_of(training, progress) | {"held_out": share}
        return Answer(predictions=predictions, details=details)

    book.score(task, compute)
    for training in (*trials, *trainings):
        forget_progress(training.kept_in(directory))


def _choose(evaluation: Evaluation, target: Target, trials: list[Training]) -> tuple[int, float]:
    """Which trial does best on the images that it did not learn from, and how well; of equals, the first.

    Raises:
        EvaluationError: all diverge.
    """
    tenth = take(target.train, np.flatnonzero(_held_out(target)))
    right, shares = tenth.samples["label"].astype(np.int32), []
    for training in trials:
        classifier = _network(evaluation, target, training)
        try:
            learn(training, classifier, evaluation.accelerator, training_directory(evaluation))
        except DivergedError as error:
            shares.append(-1.0)
            if rank() == 0:
                say(str(error))
            continue
        predicted = answers(classifier, tenth, training, evaluation.subject.config.batch, evaluation.device)
        shares.append(measure(predicted.numpy().astype(np.int32), right, target.metric))
        if rank() == 0:
            say(f"{training.name}: {shares[-1]:.1%} of the tenth held out")
    best = max(range(len(trials)), key=shares.__getitem__)
    if shares[best] < 0:
        raise EvaluationError(f"transfer {target.name}: every learning rate diverges; add smaller ones")
    return best, shares[best]


def _trials(target: Target, trainings: list[Training]) -> list[Training]:
    """The same trainings on train without its held-out tenth."""
    rest = take(target.train, np.flatnonzero(~_held_out(target)))
    batch = fitting_batch(f"transfer {target.name} finetune, trial", trainings[0].recipe.batch, len(rest))
    return [
        replace(
            training,
            name=f"{training.name}, trial",
            split=rest,
            recipe=replace(training.recipe, batch=batch, batchnorm_momentum=_batchnorm_momentum(len(rest), batch)),
        )
        for training in trainings
    ]


def _held_out(target: Target) -> npt.NDArray[np.bool_]:
    held_out: npt.NDArray[np.bool_] = held_out_rows(split_labels(target.train), target.classes).numpy()
    return held_out


def _training(evaluation: Evaluation, target: Target, batch: int, rate: float, decay: float) -> Training:
    config, train = evaluation.subject.config.transfer, target.train
    recipe = Recipe(
        steps=config.steps,
        batch=batch,
        peak_lr=rate,
        weight_decay=decay / rate,  # appendix B.8.1: "we divide these values of weight decay by the learning rate"
        batchnorm_momentum=_batchnorm_momentum(len(train), batch),
        views=crop_flip_views(evaluation),
        precision=precision_of(evaluation, config.precision),
        seed=evaluation.seed,
    )
    return Training(
        name=f"transfer {target.name} finetune, rate {rate:g}, decay {decay:g}",
        split=train,
        data=reading_of(evaluation, train),
        recipe=recipe,
        start=evaluation.weights_sha256,
    )


def _batchnorm_momentum(samples: int, batch: int) -> float:
    """Appendix B.8.1: old statistics weigh max(1 - 10/s, 0.9), where s is the number of updates per epoch."""
    return min(0.1, 10 / steps_per_epoch(samples, batch))


def _network(evaluation: Evaluation, target: Target, training: Training) -> Classifier:
    encoder = own_encoder(evaluation, pretrained=True)
    return Classifier(encoder, encoder.num_features, target.classes, evaluation.description, training.recipe)


def _task(target: Target, way: str, settings: dict[str, Any]) -> Task:
    return Task(
        protocol="transfer",
        variant=f"{target.name} {way}",
        metric=target.metric,
        settings=settings,
        test=target.test,
        n_train=len(target.train),
    )
