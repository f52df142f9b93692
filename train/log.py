"""What a person sees of a run: metrics.jsonl, a progress bar on a terminal, plain lines elsewhere."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from train.loop import StepRecord


class RunLog:
    """Writes the log lines of rank 0.

    Lines of a stopped run that lie after the step from which it is resumed are removed: each step is told once.
    """

    def __init__(self, path: Path, first_step: int, last_step: int) -> None:
        _forget_after(path, first_step)
        self._file = path.open("a")
        self._bar = (
            tqdm(total=last_step, initial=first_step, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None
        )

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self._file.close()

    def record(self, record: StepRecord) -> None:
        """Advance the bar; at logging steps, write and print the line."""
        if self._bar is not None:
            self._bar.update(1)
        line = record.log
        if line is None:
            return
        self._file.write(json.dumps(asdict(line)) + "\n")
        self._file.flush()
        text = f"loss {line.loss:.4f}  lr {line.learning_rate:.4g}  {line.images_per_second:,.0f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(f"epoch {line.epoch:.2f}  {text}", refresh=False)
        else:
            print(f"step {line.step}  epoch {line.epoch:.2f}  {text}", flush=True)


def _forget_after(path: Path, step: int) -> None:
    """Keep the lines up to a step; a line cut off by a crash goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    partial.replace(path)
