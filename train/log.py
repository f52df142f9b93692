"""What a person sees of a run: metrics.jsonl, a progress bar on a terminal, plain lines elsewhere."""

import json
import logging
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.errors import RunError
from train.loop import StepRecord

logger = logging.getLogger(__name__)


class RunLog:
    """Writes the log lines of rank 0.

    Lines of a stopped run that lie after the step from which it is resumed are removed: each step is told once.
    Lines that a full or vanished disk does not take are kept, and written when it does.

    Raises:
        RunError: those lines cannot be removed.
    """

    def __init__(self, path: Path, first_step: int, last_step: int) -> None:
        self._path = path
        self._waiting: list[str] = []
        """Lines that are not yet on disk."""
        self._failing = False
        try:
            _forget_after(path, first_step)
        except OSError as error:
            raise RunError(f"{path}: lines after step {first_step} cannot be removed ({error.strerror})") from None
        self._write()  # the file is there from the start
        self._bar = (
            tqdm(total=last_step, initial=first_step, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None
        )

    def close(self) -> None:
        """End the bar; lines that still wait have their last chance."""
        if self._waiting:
            self._write()
        if self._bar is not None:
            self._bar.close()

    def rewind(self, step: int) -> None:
        """Forget the lines after a step: the run goes back to it."""
        self._waiting = [line for line in self._waiting if json.loads(line)["step"] <= step]
        try:
            _forget_after(self._path, step)
        except OSError as error:
            logger.warning("%s: lines after step %d could not be removed (%s)", self._path, step, error.strerror)
        if self._bar is not None:
            self._bar.n = step
            self._bar.refresh()

    def record(self, record: StepRecord) -> None:
        """Advance the bar; at logging steps, write and print the line."""
        if self._bar is not None:
            self._bar.update(1)
        line = record.log
        if line is None:
            return
        self._waiting.append(json.dumps(_without_nan(asdict(line)), allow_nan=False) + "\n")
        self._write()
        text = f"loss {line.loss:.4f}  lr {line.learning_rate:.4g}  {line.images_per_second:,.0f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(f"epoch {line.epoch:.2f}  {text}", refresh=False)
        else:
            print(f"step {line.step}  epoch {line.epoch:.2f}  {text}", flush=True)

    def _write(self) -> None:
        try:
            _append(self._path, "".join(self._waiting))
        except OSError as error:
            if not self._failing:
                logger.warning("%s cannot be written (%s); its lines wait in memory", self._path, error.strerror)
            self._failing = True
            return
        self._waiting, self._failing = [], False


def _append(path: Path, text: str) -> None:
    """All of it or nothing."""
    with path.open("ab", buffering=0) as file:
        size, content = file.tell(), text.encode()
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            os.truncate(path, size)
            raise


def _forget_after(path: Path, step: int) -> None:
    """Keep the lines up to a step; a line cut off by a crash goes too."""
    if not path.exists():
        return
    kept = []
    text = path.read_text(errors="replace")
    for line in text.splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line.rstrip("\n") + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    if "".join(kept) == text:  # nothing to remove, which a full disk does not hinder
        return
    partial = path.with_suffix(".partial")
    try:
        partial.write_text("".join(kept))
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for both."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
