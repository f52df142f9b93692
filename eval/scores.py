"""What was measured, kept: RUN/eval/results.json, one score after another, so that a command that is repeated goes on.

A score is a number about a split's test images with its bootstrap interval; the answers that it was computed from lie
beside it (predictions/*.npy), for confusion matrices and for differences between scores.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from eval.confidence import bootstrap_interval, measure
from eval.ranks import from_rank_0
from eval.results import FORMAT, VERSION, Score, read_results, say, write_array, write_results
from model.collectives import rank
from pipelines.manifest import SplitIndex

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a score is of, before it is known. Equal tasks on the same encoder and data have equal scores."""

    protocol: str
    """knn, linear, linear_sgd, finetune, supervised, transfer, probes."""
    variant: str = ""
    """What tells a protocol's scores apart, such as 1 % or rotation."""
    representation: str = "encoder"
    """encoder; its controls random_init, raw_pixels; h, z of probes."""
    metric: str = "top1"
    """top1, or mean_per_class: the mean over classes of each class's share."""
    settings: dict[str, Any]
    """All that shapes the number, but the encoder and the data."""
    test: SplitIndex
    """Whose images are answered."""
    labels: Labels | None = None
    """(n_test,) the right answers, where they are not the labels of `test`."""
    classes: tuple[str, ...] | None = None
    """Names of the answers, where they are not the classes of `test`."""
    n_train: int
    """Labelled images learnt from."""

    @property
    def name(self) -> str:
        """Of files: protocol, variant and representation."""
        words = (self.protocol, self.variant.replace("%", "percent"), self.representation)
        return "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", word).strip("_") for word in words if word)

    @property
    def right(self) -> Labels:
        """(n_test,) the right answers."""
        return self.test.samples["label"].astype(np.int32) if self.labels is None else self.labels


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a protocol says of the test images."""

    predictions: Tensor
    """(n_test,) int64 on the host, in stored order, on every rank."""
    details: dict[str, Any]
    """What was chosen and how it went, for the reader; JSON."""


class ScoreBook:
    """The scores of one encoder, in a directory. Every rank has one; rank 0 reads and writes the files."""

    def __init__(self, directory: Path, encoder: dict[str, Any], circumstances: dict[str, Any]) -> None:
        """Open the book; scores of another encoder in it are dropped.

        Args:
            directory: of results.json and predictions/.
            encoder: description of the encoder, with `weights_sha256`.
            circumstances: versions, hardware and so on, as they stand in results.json.

        Raises:
            EvaluationError: there is a results.json that cannot be read.
        """
        self.directory, self._encoder, self._circumstances = directory, encoder, circumstances
        self._began = time.perf_counter()
        before = from_rank_0(lambda: read_results(directory / "results.json"))
        if before and before["encoder"].get("weights_sha256") != encoder["weights_sha256"]:
            if rank() == 0:
                say("results.json is of another encoder, which this command replaces")
            before = {}
        self._data: dict[str, Any] = before.get("data", {})
        self._before = {_identity(score): score for score in before.get("scores", [])}
        self.asked: list[Score] = []

    def score(self, task: Task, compute: Callable[[], Answer]) -> Score:
        """The task's score: the one that is there already, or else a new one, which is written at once.

        All ranks call this together, with the same tasks in the same order.

        Args:
            task: what is asked.
            compute: answers it; called on all ranks.

        Raises:
            EvaluationError: it cannot be written, or what `compute` raises.
        """
        key = _key(task, self._encoder["weights_sha256"])
        old = self._before.get((task.protocol, task.variant, task.representation))
        if old is not None and old["key"] == key:
            kept = Score(**{**old, "interval": tuple(old["interval"])})
            self.asked.append(kept)
            if rank() == 0:
                say(f"{_title(kept)}: {_shown(kept)}, known from before")
            return kept
        began = time.perf_counter()
        answer = compute()
        score = self._finished(task, answer, key, round(time.perf_counter() - began, 2))
        self.asked.append(score)
        if rank() == 0:
            say(f"{_title(score)}: {_shown(score)} in {score.seconds:.1f} s")
        from_rank_0(lambda: self._write(task, score, answer))
        return score

    def _finished(self, task: Task, answer: Answer, key: str, seconds: float) -> Score:
        right, predicted = task.right, answer.predictions.numpy().astype(np.int32)
        return Score(
            protocol=task.protocol,
            variant=task.variant,
            representation=task.representation,
            metric=task.metric,
            value=measure(predicted, right, task.metric),
            interval=bootstrap_interval(predicted, right, task.metric),
            chance=measure(np.full_like(right, np.bincount(right).argmax()), right, task.metric),
            n_train=task.n_train,
            n_test=len(right),
            seconds=seconds,
            data=_data_key(task.test) + (f"/{task.variant}" if task.labels is not None else ""),
            predictions=f"predictions/{task.name}.npy",
            key=key,
            details=answer.details,
        )

    def _write(self, task: Task, score: Score, answer: Answer) -> None:
        labels = f"predictions/labels-{hashlib.sha256(score.data.encode()).hexdigest()[:8]}.npy"
        manifest = task.test.manifest
        self._data[score.data] = {
            "name": manifest.name,
            "fingerprint": manifest.fingerprint,
            "split": task.test.name,
            "classes": list(manifest.classes if task.classes is None else task.classes),
            "labels": labels,
        }
        write_array(self.directory / labels, task.right)
        write_array(self.directory / score.predictions, answer.predictions.numpy().astype(np.int32))
        self._before[score.protocol, score.variant, score.representation] = asdict(score)
        write_results(self.directory / "results.json", self.results())

    def results(self) -> dict[str, Any]:
        """What results.json holds: every score of this encoder, those of earlier commands too."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "scores": list(self._before.values()),
            "data": self._data,
            "encoder": self._encoder,
            **self._circumstances,
            "seconds": round(time.perf_counter() - self._began, 1),
        }


def _identity(score: dict[str, Any]) -> tuple[str, str, str]:
    return score["protocol"], score["variant"], score["representation"]


def _data_key(split: SplitIndex) -> str:
    return f"{split.manifest.fingerprint}/{split.name}"


def _key(task: Task, weights_sha256: str) -> str:
    content = {
        "task": [task.protocol, task.variant, task.representation, task.metric, task.settings, task.n_train],
        "test": _data_key(task.test),
        "encoder": weights_sha256,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _title(score: Score) -> str:
    return " ".join(word for word in (score.protocol, score.variant, score.representation) if word)


def _shown(score: Score) -> str:
    low, high = score.interval
    return f"{score.value:.1%} ({low:.1%} to {high:.1%})"
