"""The training of a classifier on this rank, epoch after epoch, and what it answers afterwards.

labelled split -> one view of each image -> Learner.train_step -> a file per epoch, to go on from -> answers for test

Every rank takes its part of each global batch, so that k ranks train the classifier that one would.
"""

import hashlib
import json
import math
import re
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from eval.classifier import Classifier, Learner, Recipe
from eval.classifier_file import Progress, load_progress, save_progress
from eval.errors import EvaluationError
from eval.features import fixed_views
from eval.ranks import gather_rows, part_of, total
from eval.results import say
from model.batchnorm import with_global_batchnorm
from model.collectives import rank, world_size
from pipelines.config import DataConfig
from pipelines.loader import Share, training_batches
from pipelines.manifest import SplitIndex
from pipelines.order import steps_per_epoch
from pipelines.prefetch import Prefetch
from train.distributed import ranks_on_node

if TYPE_CHECKING:
    from accelerate import Accelerator

_SECONDS_BETWEEN_LINES = 5.0


class DivergedError(EvaluationError):
    """A loss is not finite."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A classifier that is to be trained."""

    name: str
    """In messages, such as finetune 1 %; no two trainings of an evaluation share one."""
    split: SplitIndex
    """To learn from; every sample labelled."""
    data: DataConfig
    """How it is read."""
    recipe: Recipe
    start: str
    """Names the weights that it starts from."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the split; the rest is left out, another one in each epoch."""
        return steps_per_epoch(len(self.split), self.recipe.batch)

    @property
    def settings(self) -> dict[str, Any]:
        """All that shapes the classifier; JSON."""
        return {
            "recipe": asdict(self.recipe),
            "start": self.start,
            "train": f"{self.split.manifest.fingerprint}/{self.split.name}",
            "canvas": self.data.canvas,
        }

    def kept_in(self, directory: Path) -> Path:
        """The file to go on from."""
        name = re.sub(r"[^A-Za-z0-9.+-]+", "_", self.name.replace("%", "percent")).strip("_")
        return directory / f"{name}.safetensors"


def learn(training: Training, classifier: Classifier, accelerator: "Accelerator", directory: Path) -> Progress:
    """Train a classifier, in place; from where an earlier call was stopped, if one was.

    Args:
        training: what it learns from, and how.
        classifier: as it starts; moved to the device.
        accelerator: of this rank.
        directory: where it is kept after each epoch; the caller removes it when it is not needed any more.

    Raises:
        DivergedError: the loss is not finite; what was kept stays that of the epoch before.
        DataError: a sample is damaged, or remote data cannot be reached.
        EvaluationError: it cannot be kept.
    """
    recipe, per_epoch = training.recipe, training.steps_per_epoch
    path, key = training.kept_in(directory), _key(training)
    learner = prepare(recipe, classifier, accelerator)
    before = progress = load_progress(path, key, learner)
    share = Share(
        global_batch=recipe.batch,
        seed=recipe.seed,
        rank=rank(),
        world_size=world_size(),
        ranks_on_node=ranks_on_node(),
        first_step=before.step,
        last_step=recipe.steps,
    )
    batches = training_batches(
        training.split, training.data, recipe.views, share, accelerator.device, views_per_image=1
    )
    lines = _Lines(training, before)
    began, loss_sum = time.perf_counter(), torch.zeros((), device=accelerator.device, dtype=torch.float64)
    with (
        Prefetch(batches, training.data.prefetch_batches) as ahead,
        tqdm(
            total=recipe.steps * recipe.batch,
            initial=before.step * recipe.batch,
            desc=training.name,
            unit="image",
            disable=True if rank() else None,  # None: shown where there is a terminal
            dynamic_ncols=True,
        ) as bar,
    ):
        for batch in ahead:
            loss_sum += learner.train_step(batch)
            bar.update(recipe.batch)
            step = batch.step + 1
            if step % per_epoch and step < recipe.steps:
                continue
            loss = float(total(loss_sum)) / world_size() / (step - progress.step)
            loss_sum.zero_()
            if not math.isfinite(loss):
                raise DivergedError(
                    f"{training.name}: the loss is not finite after {step:,} updates at learning rates up to "
                    f"{recipe.peak_lr:g}; choose a smaller one"
                )
            seconds = before.seconds + time.perf_counter() - began
            progress = Progress(step=step, losses=(*progress.losses, loss), seconds=round(seconds, 2))
            save_progress(path, key, learner, progress)
            lines.tell(progress)
    return progress


def prepare(recipe: Recipe, classifier: Classifier, accelerator: "Accelerator") -> Learner:
    """Bring a classifier to the device and wrap it for learning; BatchNorm becomes that of all ranks."""
    if not recipe.frozen:
        with_global_batchnorm(classifier, accelerator.device)
    classifier.to(memory_format=recipe.layout).to(accelerator.device)
    with warnings.catch_warnings():
        # Its successor is not among Accelerate's settings, and copies buffers at the start, which are equal already.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        model = accelerator.prepare(classifier)
    return Learner(recipe=recipe, classifier=classifier, model=model.train())


@torch.no_grad()
def answers(classifier: Classifier, test: SplitIndex, training: Training, batch: int, device: torch.device) -> Tensor:
    """The classes that a classifier gives the images of a split, seen as evaluation sees them.

    Each rank answers its part.

    Args:
        classifier: trained; left in eval mode.
        test: whose images.
        training: how they are read, and how large views are.
        batch: images at a time.
        device: where the classifier is.

    Returns:
        (n_test,) int64 on every rank's host, in stored order.
    """
    classifier.eval()
    size, layout = training.recipe.views.size, training.recipe.layout
    batches = fixed_views(test, training.data, size, batch=batch, device=device, part=part_of(len(test)))
    of_batches = [classifier(views.to(memory_format=layout)).argmax(dim=1).cpu() for views in batches]
    return gather_rows(torch.cat([torch.empty(0, dtype=torch.int64), *of_batches]))  # a rank may have no image


def fitting_batch(name: str, asked: int, samples: int) -> int:
    """The batch that is asked for, or the largest below it that so many samples and ranks allow, which is said.

    Args:
        name: of what is trained, for messages.
        asked: images per update over all ranks.
        samples: to learn from.

    Raises:
        EvaluationError: there are not even two images, or fewer than ranks.
    """
    ranks = world_size()
    batch = min(asked, samples) // ranks * ranks
    if batch < max(2, ranks):
        what = f"{samples} images to learn from" if samples < asked else f"a batch of {asked}"
        need = f"{ranks} ranks need at least one image each" if ranks > 1 else "an update needs two images"
        raise EvaluationError(f"{name}: {what}, but {need}")
    if batch != asked and rank() == 0:
        say(f"{name}: batches of {batch} images, not {asked}: {samples} images on {ranks} rank{'s' * (ranks > 1)}")
    return batch


class _Lines:
    """Progress as lines of text, where there is no terminal for a bar: of each epoch, but not faster than is read."""

    def __init__(self, training: Training, before: Progress) -> None:
        self._name, self._steps = training.name, training.recipe.steps
        self._epochs = math.ceil(self._steps / training.steps_per_epoch)
        self._shown = rank() == 0 and not sys.stderr.isatty()
        self._last = time.perf_counter()
        if before.step and rank() == 0:
            say(f"{self._name}: goes on after epoch {len(before.losses)} of {self._epochs}")

    def tell(self, progress: Progress) -> None:
        """Say how far it has come."""
        now = time.perf_counter()
        if self._shown and (now - self._last >= _SECONDS_BETWEEN_LINES or progress.step == self._steps):
            self._last = now
            epoch, loss = len(progress.losses), progress.losses[-1]
            say(f"{self._name}: epoch {epoch} of {self._epochs}, loss {loss:.3f}, {progress.seconds:.0f} s")


def _key(training: Training) -> str:
    return hashlib.sha256(json.dumps(training.settings, sort_keys=True).encode()).hexdigest()
