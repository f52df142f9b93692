"""What the projection head throws away: h and z = g(h) are asked the same (Chen et al. 2020, section 4.2, table 3).

view -> what was done to it -> encoder -> h -> head -> z
                                          |            |
                                       linear       linear   -> class; colour or gray; rotation; noisy; Sobel filtered

The questions are linear ones, by the L-BFGS protocol; the paper's are put by a further MLP. The control is h of an
untrained encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from eval.evaluation import Evaluation
from eval.features import FrozenEncoder, LabelledFeatures, Representation, extract
from eval.linear import answer_linear
from eval.pretrained_head import pretrained_head
from eval.probe_tasks import ANSWERS, NOISE_STD, Labels, changed, drawn_answers, noise_keys
from eval.ranks import part_of
from eval.scores import Answer, ScoreBook, Task
from pipelines.label_subsets import take
from pipelines.manifest import SplitIndex

_CLASS, _BOTH = "class", "h and z"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the images of two splits are asked."""

    name: str
    """class, or one of `ANSWERS`."""
    train: Labels
    """(n_train,) the right answers."""
    test: Labels
    """(n_test,) likewise."""
    classes: tuple[str, ...]
    """Names of the answers."""

    def right(self, split: SplitIndex) -> Labels:
        """Answers of one of the two."""
        return self.train if split.name == "train" else self.test


def score_probes(evaluation: Evaluation, book: ScoreBook) -> None:
    """Put every question to h and to z, and to the control.

    Raises:
        EvaluationError: the head is not there; features are not finite; or a class has no second image.
        RunError: checkpoints cannot be read.
        DataError: an image is damaged.
    """
    subject = evaluation.subject
    train, test = (spread_over(split, subject.config.probes.images) for split in (subject.train, subject.test))
    networks = _networks(evaluation, pretrained_head(evaluation))
    for question in questions(train, test, evaluation.seed):

        @cache
        def features(question: Question = question) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            return _features(evaluation, networks, question, train), _features(evaluation, networks, question, test)

        representations = ("h", "z", "random_init") if subject.config.controls == "all" else ("h", "z")
        for representation in representations:
            task = Task(
                protocol="probes",
                variant=question.name,
                representation=representation,
                settings={"seed": evaluation.seed, "noise_std": NOISE_STD},
                test=test,
                labels=None if question.name == _CLASS else question.test,
                classes=question.classes,
                n_train=len(train),
            )
            book.score(task, _answering(evaluation, question, representation, features))


def spread_over(split: SplitIndex, images: int) -> SplitIndex:
    """At most so many of a split's images, evenly spaced over it, so that data stored class by class is met evenly."""
    if len(split) <= images:
        return split
    return take(split, np.linspace(0, len(split) - 1, images).round().astype(np.int64))


def questions(train: SplitIndex, test: SplitIndex, seed: int) -> list[Question]:
    """The class first, then what may have been done to a view."""
    of_class = Question(
        name=_CLASS,
        train=train.samples["label"].astype(np.int32),
        test=test.samples["label"].astype(np.int32),
        classes=train.manifest.classes,
    )
    return [of_class] + [
        Question(
            name=name,
            train=drawn_answers(name, len(train), train.name, seed),
            test=drawn_answers(name, len(test), test.name, seed),
            classes=answers,
        )
        for name, answers in ANSWERS.items()
    ]


def _networks(evaluation: Evaluation, head: nn.Module) -> dict[str, Representation]:
    encoder = FrozenEncoder(evaluation.encoder, evaluation.description, evaluation.device)
    head = head.to(evaluation.device).requires_grad_(False)

    def h_and_z(views: Tensor) -> Tensor:
        h = encoder(views)
        return torch.cat([h, head(h.clone())], dim=1)  # a head may begin in place

    networks: dict[str, Representation] = {_BOTH: h_and_z}
    if evaluation.subject.config.controls == "all":
        networks["random_init"] = evaluation.untrained
    return networks


def _features(
    evaluation: Evaluation, networks: dict[str, Representation], question: Question, split: SplitIndex
) -> dict[str, Tensor]:
    """This rank's part, by representation."""
    rows = part_of(len(split)).rows
    keys = torch.from_numpy(noise_keys(len(split), split.name, evaluation.seed)[rows]).to(evaluation.device)
    answers = torch.from_numpy(question.right(split)[rows]).to(evaluation.device)

    def change(views: Tensor, of_part: slice) -> Tensor:
        return changed(question.name, views, answers[of_part], keys[of_part])

    extracted = extract(
        split,
        evaluation.data,
        evaluation.description.image_size,
        networks,
        batch=evaluation.subject.config.batch,
        device=evaluation.device,
        change=None if question.name == _CLASS else change,
    )
    both = extracted.pop(_BOTH).features
    length = evaluation.encoder.num_features
    return {
        "h": both[:, :length],
        "z": both[:, length:],
        **{name: control.features for name, control in extracted.items()},
    }


def _answering(
    evaluation: Evaluation,
    question: Question,
    representation: str,
    features: Callable[[], tuple[dict[str, Tensor], dict[str, Tensor]]],
) -> Callable[[], Answer]:
    def compute() -> Answer:
        train, test = (
            LabelledFeatures(
                features=of_split[representation],
                labels=torch.from_numpy(right.astype(np.int64))[part_of(len(right)).rows],
            )
            for of_split, right in zip(features(), (question.train, question.test), strict=True)
        )
        return answer_linear(train, test, len(question.classes), evaluation.device)

    return compute
