"""A run of a study: trained by train/pretrain.py, scored by eval.evaluate, both as processes of their own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eval.errors import EvaluationError
from eval.studies.files import write_json
from eval.studies.scores import run_scores
from eval.studies.settings import Run, Settings, with_seed
from eval.studies.study import Study
from train.config import PretrainConfig, flatten

_ROOT = Path(__file__).resolve().parents[2]
STOPPED = 75
"""Exit status of what was asked to stop and goes on by the same command (train/pretrain.py)."""
_ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StoppedError(EvaluationError):
    """The study was asked to stop; what was being trained is saved."""


class FailedError(EvaluationError):
    """Training or scoring a run ended with another status than 0, which `status` has; 128 + N after signal N."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status if status > 0 else 128 - status


class Children:
    """The processes that are running, so that who asks this one to stop asks them.

    Training saves and ends with 75; scoring is killed, and later goes on after its last score.
    """

    def __init__(self, threads: int) -> None:
        """Begin to listen; call in the main thread.

        Args:
            threads: of each process on the CPU; 0 leaves it to them.
        """
        self.asked = False
        self._threads = threads
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.RLock()  # a handler may interrupt the main thread while it holds it
        for number in _ASKING:
            signal.signal(number, lambda *_: self.stop())

    def call(self, arguments: Sequence[str], directory: Path) -> float:
        """Run Python with these arguments; its output is added to output.txt of the directory.

        Returns:
            Seconds that it took.

        Raises:
            StoppedError: it was asked to stop.
            FailedError: it failed; the message has the last line that it wrote.
        """
        directory.mkdir(parents=True, exist_ok=True)
        log, began = directory / "output.txt", time.monotonic()
        environment = {"OMP_NUM_THREADS": str(self._threads)} if self._threads else {}
        with log.open("a") as file:
            with self._lock:
                if self.asked:
                    raise StoppedError("asked to stop")
                process = subprocess.Popen(  # noqa: S603  # our own programs
                    [sys.executable, *arguments],
                    stdout=file,
                    stderr=file,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **environment},
                )
                self._running.add(process)
            status = process.wait()
        with self._lock:
            self._running.discard(process)
        if status and (self.asked or status == STOPPED or -status in _ASKING):
            raise StoppedError(f"{directory}: asked to stop")
        if status:
            last = (log.read_text(errors="replace").splitlines() or [""])[-1]
            said = f"{directory}: ended with status {status} ({last}); {log} has the whole output"
            raise FailedError(said, status)
        return time.monotonic() - began

    def stop(self) -> None:
        """Ask all of them to stop; no other is started."""
        with self._lock:
            self.asked = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Work:
    """How the runs of a study are made."""

    study: Study
    settings: Settings
    directory: Path
    protocols: tuple[str, ...]
    supervised_epochs: int
    """Of the supervised network, where the study has one."""
    wanted: dict[str, PretrainConfig]
    """Configuration of each cell with seed 0, by name."""

    def is_done(self, run: Run) -> bool:
        """Whether it is trained as it is to be, and every score is there.

        Raises:
            EvaluationError: it was trained differently, or a file is damaged.
        """
        self.refuse_other_settings(run)
        scores = run_scores(self.directory / run.name, self.study, self.protocols)
        return set(self.protocols) | set(self.study.columns) == set(scores)

    def refuse_other_settings(self, run: Run) -> None:
        """Check that what is there of a run, if anything, was begun with the same settings.

        Raises:
            EvaluationError: it was not; the message names a field.
        """
        path = self.directory / run.name / "config.yaml"
        if not path.exists():
            return
        there = _plain_settings(path)
        here = with_seed(self.wanted[run.cell.name], run.seed).numeric()
        for name, value in json.loads(json.dumps(here)).items():
            if there.get(name, value) != value:
                raise EvaluationError(
                    f"{path}: begun with {name} = {there[name]}, not {value}; give the settings of before, or another "
                    "--output"
                )

    def make(self, run: Run, children: Children, *more: str, supervised: bool = True) -> float:
        """Train and score a run, from wherever it stands.

        Args:
            run: of the study.
            children: who runs processes.
            more: further flags of train/pretrain.py.
            supervised: score the supervised network, too, if the study has one.

        Returns:
            Seconds that both took.

        Raises:
            StoppedError: asked to stop.
            FailedError: training or scoring failed.
        """
        directory = self.directory / run.name
        flags = self.settings.training_flags(run, self.directory)
        train = children.call([str(_ROOT / "train" / "pretrain.py"), *flags, *more], directory)
        score = children.call(
            self.scoring(run, supervised="supervised" in self.study.columns and supervised), directory
        )
        _add_seconds(directory, train=train, score=score)
        return train + score

    def scoring(self, run: Run, *, supervised: bool) -> list[str]:
        """Arguments of the evaluation. Controls are computed once: they hardly depend on the cell."""
        protocols = (*self.protocols, "supervised") if supervised else self.protocols
        words = ["-m", "eval.evaluate", str(self.directory / run.name), f"--protocols={','.join(protocols)}"]
        words.append(f"--controls={'all' if run.number == 0 else 'none'}")
        if self.settings.cpu_threads:
            words.append(f"--cpu_threads={self.settings.cpu_threads}")
        if supervised:
            epochs = self.supervised_epochs or self.settings.epochs
            words += [f"--supervised.epochs={epochs}", "--supervised.fractions=1.0", "--supervised.augmentation=run"]
        return words


def _plain_settings(path: Path) -> dict[str, Any]:
    """Of a run's config.yaml, flat; not parsed as a configuration, which takes a tenth of a second for each of many."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise EvaluationError(f"{path}: cannot be read; remove the run's directory to train it again")
    return flatten(content)


def lasted(run_dir: Path) -> dict[str, float]:
    """Seconds that training and scoring took so far, or nothing."""
    path = run_dir / "seconds.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _add_seconds(run_dir: Path, **seconds: float) -> None:
    before = lasted(run_dir)
    total = {name: round(before.get(name, 0.0) + value, 1) for name, value in seconds.items()}
    write_json(run_dir / "seconds.json", total)
