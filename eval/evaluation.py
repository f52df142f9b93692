"""An evaluation under way on this rank: the encoder is loaded, ranks have met, features are there when asked for."""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eval.controls import calibrate_batchnorm, random_encoder, raw_pixels, spread
from eval.feature_files import load_features, save_features
from eval.features import FrozenEncoder, LabelledFeatures, Representation, extract, fixed_views
from eval.ranks import from_rank_0, join_ranks
from eval.results import say
from eval.subject import Subject
from model.collectives import rank, world_size
from model.description import EncoderDescription, weights_sha256
from model.encoder_file import load_encoder
from pipelines.config import DataConfig
from pipelines.manifest import SplitIndex

if TYPE_CHECKING:
    from accelerate import Accelerator

_SMALL_VIEW = 64
_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 2048, 256
_VERSIONS = ("torch", "torchvision", "nvidia-dali-cuda130", "kornia", "timm", "accelerate", "numpy")


@dataclass(kw_only=True)
class Evaluation:
    """What every protocol works with."""

    subject: Subject
    accelerator: "Accelerator"
    encoder: Any
    """In eval mode, on the host; protocols that train take a copy."""
    description: EncoderDescription
    weights_sha256: str

    @property
    def device(self) -> torch.device:
        """Of this rank."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def classes(self) -> int:
        """Their number."""
        return len(self.subject.train.manifest.classes)

    @property
    def seed(self) -> int:
        """Of the run; 0 for an encoder alone."""
        return self.subject.run.seed if self.subject.run else 0

    @property
    def data(self) -> DataConfig:
        """How images are read: as the run did. For an encoder alone, onto canvases that give views of its size."""
        if self.subject.run is not None:
            return self.subject.run.data
        size = self.description.image_size
        return DataConfig(
            dir=self.subject.train.location, canvas=size if size <= _SMALL_VIEW else math.ceil(size / 0.875)
        )

    def features(self, split: SplitIndex, representation: str) -> LabelledFeatures:
        """This rank's part of a representation of train or test; extracted once for all, kept in eval/features/."""
        return self._features[split.name][representation]

    @property
    def representations(self) -> tuple[str, ...]:
        """Those that protocols on frozen features score."""
        return ("encoder", "random_init", "raw_pixels") if self.subject.config.controls == "all" else ("encoder",)

    @cached_property
    def _features(self) -> dict[str, dict[str, LabelledFeatures]]:
        return {split.name: self._features_of(split) for split in (self.subject.train, self.subject.test)}

    def _features_of(self, split: SplitIndex) -> dict[str, LabelledFeatures]:
        """Those that were kept, and the others extracted in one pass over the images."""
        paths = {
            name: self.subject.output / "features" / f"{split.name}-{name}.safetensors" for name in self.representations
        }
        keys = {name: self._key(split, name) for name in self.representations}
        found = {name: load_features(paths[name], keys[name], split) for name in self.representations}
        features = {name: kept for name, kept in found.items() if kept is not None}
        wanted = {name: self._represent(name) for name in self.representations if name not in features}
        if wanted:
            began, size = time.perf_counter(), self.description.image_size
            features |= extract(split, self.data, size, wanted, batch=self.subject.config.batch, device=self.device)
            for name in wanted:
                save_features(paths[name], keys[name], split, features[name])
            if rank() == 0 and not sys.stderr.isatty():  # where there is no bar
                say(f"{split.name}: features of {len(split):,} images in {time.perf_counter() - began:.1f} s")
        return features

    def _represent(self, name: str) -> Representation:
        if name == "encoder":
            return FrozenEncoder(self.encoder, self.description, self.device)
        return raw_pixels if name == "raw_pixels" else self.untrained

    @cached_property
    def untrained(self) -> FrozenEncoder:
        """The encoder as it was before pretraining, with BatchNorm's statistics of the data."""
        size = self.description.image_size
        untrained = FrozenEncoder(
            random_encoder(self.description.encoder, size, self.seed), self.description, self.device
        )
        some = spread(self.subject.train, _CALIBRATION_IMAGES)
        batch = math.ceil(len(some) / math.ceil(len(some) / _CALIBRATION_BATCH))
        calibrate_batchnorm(untrained, fixed_views(some, self.data, size, batch=batch, device=self.device))
        return untrained

    def _key(self, split: SplitIndex, representation: str) -> str:
        content = {
            "representation": representation,
            "encoder": self.weights_sha256,
            "seed": self.seed,
            "data": split.manifest.fingerprint,
            "train": self.subject.train.manifest.fingerprint,
            "canvas": self.data.canvas,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def begin(subject: Subject) -> Evaluation:
    """Meet the other ranks and load the encoder.

    Raises:
        EvaluationError: the device is not there, or ranks are missing.
        ModelError: the encoder is missing or damaged.
    """
    accelerator = join_ranks(subject.config.device, subject.config.cpu_threads)
    encoder, description = load_encoder(subject.encoder_dir)
    return Evaluation(
        subject=subject,
        accelerator=accelerator,
        encoder=encoder,
        description=description,
        weights_sha256=weights_sha256(subject.encoder_dir),
    )


def circumstances() -> dict[str, Any]:
    """By what, on what and on how many ranks an evaluation is made, as it stands in results.json."""
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
        "hardware": _hardware(),
        "world_size": world_size(),
        "git_revision": from_rank_0(_git_revision),
    }


def _hardware() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    cores = len(os.sched_getaffinity(0))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {cores} core{'s' if cores > 1 else ''}"


def _git_revision() -> str:
    """Of this program, if it runs from a checkout; empty otherwise."""
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(  # noqa: S603  # no word of it is a user's
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],  # noqa: S607  # git is where it is
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()
