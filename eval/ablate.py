"""Studies: the same run with one thing changed at a time, each scored in the same way.

    python -m eval.ablate head,loss --config train/configs/cifar10_cpu.yaml --data.dir DIR --epochs 6 --jobs 2

Every cell is an ordinary run directory, OUTPUT/CELL/seed-N, trained by train/pretrain.py and scored by eval.evaluate.
What is finished is not done again: the same command goes on where it stopped. Writes OUTPUT/results.json and, for each
study, OUTPUT/STUDY.md.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt

from eval.config import EvaluationDataConfig
from eval.errors import EvaluationError
from eval.results import say, write_results
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

_ROOT = Path(__file__).resolve().parents[1]
PROTOCOLS = ("knn", "linear")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting of a study."""

    name: str
    """Of its directory."""
    label: str
    """In tables."""
    flags: tuple[str, ...] = ()
    """For train/pretrain.py, after the configuration file."""


BASE = Cell(name="base", label="MLP head, NT-Xent")
STUDIES = {
    "head": (  # Chen et al. 2020, section 4.2 and figure 8
        BASE,
        Cell(name="head-linear", label="linear head", flags=("--head.kind=linear",)),
        Cell(name="head-none", label="no head", flags=("--head.kind=none",)),
    ),
    "loss": (  # table 4
        BASE,
        Cell(name="logistic", label="NT-Logistic", flags=("--loss.name=nt_logistic",)),
        Cell(
            name="logistic-semi-hard",
            label="NT-Logistic, semi-hard",
            flags=("--loss.name=nt_logistic", "--loss.semi_hard=true"),
        ),
        Cell(name="triplet", label="margin triplet", flags=("--loss.name=margin_triplet",)),
        Cell(
            name="triplet-semi-hard",
            label="margin triplet, semi-hard",
            flags=("--loss.name=margin_triplet", "--loss.semi_hard=true"),
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """A study, and what each of its cells may cost."""

    studies: str = ""
    """Which, separated by commas: head, loss. The flag may be left out."""
    base: str = ""
    """Configuration file of train/pretrain.py that all cells start from; `--config` on the command line."""
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    output: str = "runs/studies"
    """Directory of the cells and the results."""
    epochs: NonNegativeInt = 0
    """Of every cell; 0 leaves what the configuration file says. Warm-up is a tenth of them."""
    seeds: str = "0,1"
    """Separated by commas; each cell is trained once with each."""
    jobs: PositiveInt = 1
    """Cells trained at once."""
    cpu_threads: NonNegativeInt = 0
    """Of each job on the CPU; 0 shares the cores among the jobs."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.study_names if name not in STUDIES]
        if unknown or not self.study_names:
            raise ValueError(
                f"studies = {self.studies}: {', '.join(unknown) or 'none'} is not among {', '.join(STUDIES)}"
            )
        if not self.base:
            raise ValueError("config: none named; give a configuration file of train/pretrain.py")
        if not self.data.dir:
            raise ValueError("data.dir: no data set named; build one with `python -m pipelines.build_shards`")
        if not self.seed_numbers:
            raise ValueError(f"seeds = {self.seeds}: whole numbers from 0, separated by commas, are wanted")

    @property
    def study_names(self) -> tuple[str, ...]:
        """Each once, in the order asked for."""
        return tuple(dict.fromkeys(name.strip() for name in self.studies.split(",") if name.strip()))

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """Each once; empty if what was given is not a list of them."""
        words = [word.strip() for word in self.seeds.split(",")]
        return tuple(dict.fromkeys(map(int, words))) if all(word.isdigit() for word in words) else ()


def main() -> None:
    """Train and score what is not there yet, then write the tables."""
    try:
        config = parse(AblateConfig, _named(sys.argv[1:]), prog="ablate")
        cells = list(dict.fromkeys(cell for study in config.study_names for cell in STUDIES[study]))
        with ThreadPoolExecutor(config.jobs) as pool:
            # Cells in the outer loop would leave the last seeds for the end: whole rounds are comparable earlier.
            runs = [(cell, seed) for seed, cell in product(config.seed_numbers, cells)]
            scores = list(pool.map(lambda run: run_cell(config, *run), runs))
        output = Path(config.output)
        results = summary(config, dict(zip(runs, scores, strict=True)))
        write_results(output / "results.json", results)
        for study in config.study_names:
            text = table(study, results)
            (output / f"{study}.md").write_text(text + "\n")
            print(text + "\n")
    except (EvaluationError, RunError) as error:
        fail("ablate", error, show=True)


def run_cell(config: AblateConfig, cell: Cell, seed: int) -> dict[str, Any]:
    """Train one cell from one seed, if that is not done, and score it.

    Returns:
        What eval.evaluate wrote.

    Raises:
        EvaluationError: training or scoring failed; the cell's output.txt says why.
    """
    directory = Path(config.output) / cell.name / f"seed-{seed}"
    results = directory / "eval" / "results.json"
    if not results.exists():
        say(f"{directory}: begun")
        train = [*_shared_flags(config), *cell.flags, f"--seed={seed}", f"--run_dir={directory}"]
        _call([str(_ROOT / "train" / "pretrain.py"), *train], directory)
        _call(["-m", "eval.evaluate", str(directory), "--protocols", ",".join(PROTOCOLS)], directory)
        say(f"{directory}: done")
    content: dict[str, Any] = json.loads(results.read_text())
    return content


def summary(config: AblateConfig, scores: dict[tuple[Cell, int], dict[str, Any]]) -> dict[str, Any]:
    """Top-1 per cell, protocol and seed, with the settings that all cells share."""
    cells: dict[str, Any] = {}
    for (cell, seed), score in scores.items():
        entry = cells.setdefault(cell.name, {"label": cell.label, "flags": list(cell.flags), "top1": {}})
        for protocol in PROTOCOLS:
            entry["top1"].setdefault(protocol, {})[str(seed)] = score[protocol]["top1"]
    first = next(iter(scores.values()))
    return {
        "command": {"config": config.base, "flags": _shared_flags(config)[2:], "seeds": list(config.seed_numbers)},
        "data": first["data"],
        "controls": first["controls"],
        "cells": cells,
    }


def table(study: str, results: dict[str, Any]) -> str:
    """Markdown: a row per cell, mean top-1 over seeds in per cent and the range."""
    lines = ["| " + " | ".join(["cell", *PROTOCOLS]) + " |", "|---|" + "---:|" * len(PROTOCOLS)]
    for cell in STUDIES[study]:
        top1 = results["cells"][cell.name]["top1"]
        shares = [[100 * share for share in top1[protocol].values()] for protocol in PROTOCOLS]
        columns = [f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})" for values in shares]
        lines.append("| " + " | ".join([cell.label, *columns]) + " |")
    return "\n".join(lines)


def _shared_flags(config: AblateConfig) -> list[str]:
    flags = ["--config", config.base, f"--data.dir={config.data.dir}", "--metrics.port=0"]
    if config.epochs:
        flags += [f"--schedule.epochs={config.epochs}", f"--schedule.warmup_epochs={config.epochs / 10}"]
    if config.cpu_threads:
        flags.append(f"--cpu_threads={config.cpu_threads}")
    return flags


def _call(arguments: Sequence[str], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "output.txt"
    with log.open("a") as file:
        command = [sys.executable, *arguments]
        status = subprocess.run(command, stdout=file, stderr=file, check=False).returncode  # noqa: S603  # our own
    if status:
        last = (log.read_text().splitlines() or [""])[-1]
        raise EvaluationError(f"{directory}: stopped with status {status} ({last}); {log} has the whole output")


def _named(arguments: Sequence[str]) -> list[str]:
    """Name the study, which comes first, and keep `--config` from the parser of this program: it is pretrain's."""
    named = ["--base" if word == "--config" else word for word in arguments]
    if named and not named[0].startswith("-"):
        named[0] = f"--studies={named[0]}"
    return named


if __name__ == "__main__":
    main()
