"""Checkpoints as files, without their tensors: where they lie, whether they are whole, which of them stay.

    RUN/checkpoints/step-00001000/model.safetensors       encoder, head, BatchNorm statistics; names of the bare model
                                  optimizer.safetensors   PARAMETER/STATE, such as encoder.conv1.weight/momentum
                                  probe.safetensors       the online probe and its optimizer
                                  state.json              all else: see CheckpointState
                                  SHA256SUMS              of all of these; `sha256sum -c SHA256SUMS` checks them, too

Where `allow_config_change` let a run go on under another configuration, the names of its checkpoints from then on end
in `-change-1` and so on: these are newer, whatever their step. What a crash left of one that was being replaced by
another of the same name, `.step-00001000.replaced`, counts as that checkpoint as long as there is no other.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from train.config import CheckpointConfig, hash_of
from train.errors import RunError

logger = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "diptych-checkpoint", 3
STATE, SUMS = "state.json", "SHA256SUMS"
TENSORS = ("model.safetensors", "optimizer.safetensors", "probe.safetensors")
_NAME = re.compile(r"step-(\d+)(?:-change-(\d+))?|\.step-(\d+)(?:-change-(\d+))?\.replaced")
DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError)
"""What reading a damaged checkpoint raises."""


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """All of a checkpoint but its tensors."""

    step: int
    """Updates made, batches that were left out among them."""
    change: int = 0
    """How often the run went on under another configuration."""
    steps_per_epoch: int
    config: dict[str, Any]
    """The fields that shape the result, flat; the seed is one of them."""
    data_fingerprint: str
    scaler: dict[str, Any]
    """State of fp16's gradient scaler; empty without."""
    skipped_updates: int = 0
    """That non_finite.policy = skip has left out."""
    left_out: tuple[int, ...] = ()
    """Steps, from 0, of the batches that non_finite.policy = rollback leaves out."""
    probe_top1: float | None = None
    """The online probe's accuracy in the last log line."""

    @property
    def name(self) -> str:
        """Of the checkpoint's directory."""
        return f"step-{self.step:08d}" + (f"-change-{self.change}" if self.change else "")

    @property
    def order(self) -> tuple[int, int]:
        """Later checkpoints of a run have greater ones."""
        return self.change, self.step


def list_checkpoints(directory: Path) -> list[Path]:
    """All that look like one by their name, newest first."""
    found = {_order(path): path for path in sorted(directory.glob("*step-*")) if _NAME.fullmatch(path.name)}
    return [found[order] for order in sorted(found, reverse=True)]  # `.` sorts first: a replaced one loses


def write_state(directory: Path, state: CheckpointState) -> None:
    """Write state.json and, over all files, SHA256SUMS."""
    content = {"format": FORMAT, "version": FORMAT_VERSION, "config_sha256": hash_of(state.config), **asdict(state)}
    (directory / STATE).write_text(json.dumps(content, indent=1) + "\n")
    sums = [f"{_sha256(directory / name)}  {name}\n" for name in (*TENSORS, STATE)]
    (directory / SUMS).write_text("".join(sums))


def read_state(path: Path, names: Sequence[str] = (STATE,)) -> CheckpointState:
    """Read a checkpoint's state, after checking the named files of it against their sums.

    Raises:
        RunError: another version of this program wrote it.
        OSError, ValueError, KeyError, TypeError, RecursionError: it is damaged.
    """
    if not (path / SUMS).exists():
        _refuse_other_version(path)
    *lines, rest = (path / SUMS).read_text().split("\n")
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if rest or sorted(sums) != sorted((*TENSORS, STATE)):
        raise ValueError(f"{SUMS} does not name {', '.join((*TENSORS, STATE))}")
    for name in names:
        if _sha256(path / name) != sums[name]:
            raise ValueError(f"sha256 of {name} differs")
    _refuse_other_version(path)
    content = json.loads((path / STATE).read_text())
    for known in ("format", "version"):
        del content[known]
    if content.pop("config_sha256") != hash_of(content["config"]):
        raise ValueError("the configuration does not have its hash")
    state = CheckpointState(**(content | {"left_out": tuple(content["left_out"])}))
    if state.order != _order(path):
        raise ValueError(f"it holds {state.name}")
    return state


def prune(directory: Path, config: CheckpointConfig) -> None:
    """Remove what is neither among the last, nor at the end of an epoch to keep, nor the best by the probe."""
    replaced = (path for path in directory.glob(".step-*.replaced") if _original(path).exists())
    for trash in [*directory.glob(".step-*.removed"), *replaced]:  # what a crash left, or the save before this
        shutil.rmtree(trash)
    states: dict[Path, CheckpointState] = {}
    for path in list_checkpoints(directory):
        try:
            states[path] = read_state(path)
        except (RunError, *DAMAGE) as error:
            logger.warning("%s cannot be read (%s) and is left where it is", path, error)
    for path in outdated(states, config):
        # Under another name first: what is half removed must not look like a checkpoint.
        trash = path.with_name(f".{states[path].name}.removed")
        path.rename(trash)
        shutil.rmtree(trash)


def outdated(states: dict[Path, CheckpointState], config: CheckpointConfig) -> list[Path]:
    """Those of a run's checkpoints that need not be kept."""
    newest_first = sorted(states, key=lambda path: states[path].order, reverse=True)
    kept = set(newest_first[: config.keep_last])
    if config.keep_every_epochs:
        kept |= {path for path in states if is_epoch_end(states[path].step, config, states[path].steps_per_epoch)}
    scored = [path for path in newest_first if states[path].probe_top1 is not None]
    if config.keep_best and scored:
        kept.add(max(scored, key=lambda path: states[path].probe_top1 or 0.0))
    return [path for path in newest_first if path not in kept]


def is_epoch_end(step: int, config: CheckpointConfig, steps_per_epoch: int) -> bool:
    """Whether `keep_every_epochs` wants a checkpoint after so many updates."""
    return bool(config.keep_every_epochs) and step > 0 and step % (config.keep_every_epochs * steps_per_epoch) == 0


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that it neither counts as one nor is lost."""
    try:
        path.rename(path.with_name(f"damaged-{path.name}"))
    except OSError as error:
        logger.warning("%s could not be renamed (%s)", path, error.strerror)


def _refuse_other_version(path: Path) -> None:
    try:
        content = json.loads((path / STATE).read_text())
        version = content["version"] if content["format"] == FORMAT else None
    except DAMAGE:
        return
    if version != FORMAT_VERSION:
        raise RunError(
            f"{path}: format version {version}, this program reads {FORMAT_VERSION}; go on with the version of Diptych "
            "that wrote it, or begin anew in another --run_dir"
        )


def _original(replaced: Path) -> Path:
    return replaced.with_name(replaced.name.removeprefix(".").removesuffix(".replaced"))


def _order(path: Path) -> tuple[int, int]:
    found = _NAME.fullmatch(path.name)
    return (int(found[2] or found[4] or 0), int(found[1] or found[3])) if found else (-1, -1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
