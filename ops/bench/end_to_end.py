"""Whole trainings side by side, ours and those of other libraries on the same work: `python -m ops.bench end_to_end`.

Same images, encoder, batch, temperature and schedule. Peers read the images as files, and make views by their own
transforms in DataLoader workers. Each is run in its own default precision, float32, and in ours. Every contestant has
all cores, or the GPU, in a process of its own; rounds are interleaved.

With `--learn` each contestant learns to the end of the schedule instead, one after another. Its encoder is scored on
the test split by kNN (k = 200, temperature 0.1) after each epoch, beside the clock, and by the linear evaluation after
the last one. What was learnt from the same data on the same machine is not repeated.

    python3 -m venv peers
    peers/bin/pip install -c constraints.txt -e '.[peers]'
    python -m ops.bench end_to_end --config train/configs/cifar10_cpu.yaml --data.dir DIR --peer_python peers/bin/python
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import yaml
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from ops.bench.measure import BenchConfig, Contestant, call_alone, measure, run_on
from ops.bench.prepared import image_files
from ops.bench.tables import machine, rate_text
from pipelines.errors import DataError
from pipelines.manifest import open_split
from pipelines.order import steps_per_epoch
from train.arguments import parse
from train.config import PretrainConfig, hash_of, load_config
from train.distributed import fail
from train.errors import RunError

_TORCH = ("torch", "torchvision")
_PEERS = {
    "lightly": ("lightly", *_TORCH),
    "stable_pretraining": ("stable-pretraining", *_TORCH),
    "solo_learn": _TORCH,
    "torchvision": ("timm", *_TORCH),
}
"""Peers, and the distributions whose versions are told."""
Precision = Literal["auto", "fp32", "bf16", "fp16"]
_TOP1 = (0.45, 0.5)
_LONGEST_SECONDS = 24 * 3600.0
_ENDLESS_EPOCHS = 1_000_000
"""Of what is timed: no contestant comes to the end of its schedule before the time is up."""
_STEADY = 0.8
"""Of the fastest run's rate; where the slowest is below, some were disturbed."""


@dataclass(frozen=True, kw_only=True)
class EndToEndConfig(PretrainConfig):
    """The run that is compared, and how."""

    work: str = "runs/bench"
    """Where the images lie as files, and what is learnt."""
    peer_python: str = sys.executable
    """Interpreter in which the peers are installed."""
    only: str = ""
    """Run beside ours and its bound only those whose names contain one of these words, separated by commas."""
    workers: NonNegativeInt = 0
    """Of the peers' DataLoaders; 0 takes one for each core."""
    repeats: PositiveInt = 5
    """Timed runs of each."""
    seconds: PositiveFloat = 15.0
    """Of a run, after a warm-up of a quarter of that."""
    learn: bool = False
    """Learn to the end of the schedule and score what was learnt, instead of timing updates."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Sequence[str]) -> None:
    """Run, and print how ours stands to each other contestant."""
    try:
        config = parse(EndToEndConfig, arguments, prog="bench end_to_end")
        everyone = contestants(config)
        report = {"machine": machine(), **(learnt(config, everyone) if config.learn else timed(config, everyone))}
    except (RunError, DataError) as error:
        fail("bench end_to_end", error, show=True)
    print(json.dumps(report, indent=1) if config.json else "\n".join(lines(report)))


def contestants(config: EndToEndConfig) -> list[Contestant]:
    """Ours first, then its bound, ours in float32, and each peer in float32 and in our precision.

    Raises:
        DataError: there is no such data.
    """
    work = Path(config.work).resolve()
    files = image_files(open_split(config.data.dir, "train"), work)
    precisions: dict[Precision, None] = dict.fromkeys(("fp32", config.precision))
    endless = replace(config, schedule=replace(config.schedule, epochs=_ENDLESS_EPOCHS))
    run = config if config.learn else endless
    paths = {precision: _written(run, precision, work) for precision in precisions}
    workers = config.workers or len(os.sched_getaffinity(0))
    ours = [("ours", "begin", config.precision), ("bound: ours on views in memory", "bound", config.precision)]
    if config.precision != "fp32":
        ours.append(("ours, fp32", "begin", "fp32"))
    made = [
        Contestant(
            name=name,
            call=f"ops.bench.training_ours:{function}",
            options={"config": paths[precision]},
            distributions=_TORCH,
        )
        for name, function, precision in ours
    ]
    for precision in precisions:
        made += [
            Contestant(
                name=f"{peer}, {precision}",
                call="ops.bench.training_peers:begin",
                options={"peer": peer, "config": paths[precision], "files": str(files), "workers": workers},
                distributions=distributions,
                python=config.peer_python,
            )
            for peer, distributions in _PEERS.items()
        ]
    words = [word.strip().lower() for word in config.only.split(",")]
    return [*made[:2], *(one for one in made[2:] if any(word in one.name for word in words))]


def timed(config: EndToEndConfig, everyone: Sequence[Contestant]) -> dict[str, Any]:
    """Images per second of each, in interleaved runs of fresh processes.

    Returns:
        `rates`: by name median, lowest and highest images_per_second, `runs`, `noisy` (a run failed, or was much slower
        than another), memory_bytes, versions, and `ratio`, ours to it; and `failure`, if one did.
    """
    cores = sorted(os.sched_getaffinity(0))
    as_updates = [
        replace(
            one,
            call="ops.bench.training:timed_updates",
            options={"begin": one.call, "threads": len(cores), "options": one.options},
        )
        for one in everyone
    ]
    how = BenchConfig(
        repeats=config.repeats,
        retries=0,
        seconds=config.seconds,
        warm_up_seconds=config.seconds / 4,
        least_utilisation=0.0,
    )
    outcomes = measure(as_updates, how, lambda one, how: run_on(one, how, cores))
    rates: dict[str, Any] = {}
    for name, outcome in outcomes.items():
        speeds = [run.images_per_second for run in outcome.kept]
        told = {"failure": outcome.failure} if outcome.failure else {}
        if not speeds:
            rates[name] = told
            continue
        rates[name] = {
            **told,
            "median": median(speeds),
            "lowest": min(speeds),
            "highest": max(speeds),
            "runs": len(speeds),
            "noisy": bool(told) or min(speeds) < _STEADY * max(speeds),
            "memory_bytes": max(run.memory_bytes for run in outcome.kept),
            "cpu_utilisation": median(run.cpu_utilisation for run in outcome.kept) / len(cores),
            "versions": outcome.versions,
        }
    ours = rates[everyone[0].name]
    for entry in rates.values():
        if entry is not ours and "median" in entry and "median" in ours:
            entry["ratio"] = ours["median"] / entry["median"]
    return {"rates": rates}


def learnt(config: EndToEndConfig, everyone: Sequence[Contestant]) -> dict[str, Any]:
    """Scores by epoch and second of each.

    Returns:
        `learnt`: by name `epochs` (seconds, memory_bytes and knn of each), `knn` and `linear` at the end, `seconds_to`,
        for each top-1 the seconds after which it was there, if it was, and `versions`; or `failure`.
    """
    split = open_split(config.data.dir, "train")
    each = steps_per_epoch(len(split), config.global_batch)
    report: dict[str, Any] = {}
    for one in everyone:
        if one.call.endswith(":bound"):
            continue
        output = learnt_directory(one, config.work, split.manifest.fingerprint)
        ends = [output / f"epoch-{epoch + 1:03d}" for epoch in range(config.schedule.epochs)]
        complete = output / "versions.json"
        if not complete.is_file():
            print(f"{one.name} learns", file=sys.stderr, flush=True)
            cores = len(os.sched_getaffinity(0))
            options = {"begin": one.call, "threads": cores, "options": one.options}
            answer = call_alone(
                "ops.bench.training:learn",
                {**options, "steps_per_epoch": each, "output": str(output)},
                one.python,
                {"distributions": one.distributions},
                longest_seconds=_LONGEST_SECONDS,
            )
            if "made" not in answer:
                report[one.name] = {"failure": answer.get("error") or f"not installed ({answer['missing']})"}
                continue
            complete.write_text(json.dumps(answer["versions"]))
        try:
            report[one.name] = scored(ends, config.data.dir) | {"versions": json.loads(complete.read_text())}
        except RunError as error:
            report[one.name] = {"failure": str(error)}
    return {"learnt": report}


def learnt_directory(one: Contestant, work: str, data_fingerprint: str) -> Path:
    """Where a contestant leaves what it learns: the same for a run on data and machine, however it is compared."""
    run = load_config(Path(one.options["config"]))
    shapes = {
        "run": run.sha256(),
        "device": run.device,
        "data": data_fingerprint,
        "workers": one.options.get("workers", 0),
        "machine": {key: value for key, value in machine().items() if key != "date"},
    }
    return Path(work).resolve() / "learnt" / hash_of(shapes)[:16] / one.name.replace(", ", "-")


def scored(ends: Sequence[Path], data: str) -> dict[str, Any]:
    """What a training came to, from what it left after each epoch.

    Raises:
        RunError: an encoder cannot be scored.
    """
    epochs = [json.loads((end / "clock.json").read_text()) for end in ends]
    for end, epoch in zip(ends, epochs, strict=True):
        epoch["knn"] = _evaluated(end / "encoder", data, "knn")["knn k=200 T=0.1"]
    last = _evaluated(ends[-1] / "encoder", data, "knn,linear")
    reached = {
        f"{top1:g}": next((epoch["seconds"] for epoch in epochs if epoch["knn"] >= top1), None) for top1 in _TOP1
    }
    return {"epochs": epochs, "knn": last["knn k=200 T=0.1"], "linear": last["linear"], "seconds_to": reached}


def lines(report: dict[str, Any]) -> list[str]:
    """A table of it."""
    where = report["machine"]
    head = f"{where['cpu']}, {where['cores']} cores, {where['date']}; each contestant has all of them"
    if "rates" in report:
        title = f"{'':<34}{'images/s':>10}{'lowest - highest':>20}{'memory':>10}{'CPU':>6}{'ours/it':>9}"
        return [head, title, *(_rate_line(name, entry) for name, entry in report["rates"].items())]
    title = f"{'':<34}{'s/epoch':>10}{'kNN':>8}{'linear':>8}" + "".join(f"{f's to {top1:.0%}':>12}" for top1 in _TOP1)
    return [head, f"{title}{'memory':>10}", *(_learnt_line(name, entry) for name, entry in report["learnt"].items())]


def _rate_line(name: str, entry: dict[str, Any]) -> str:
    if "median" not in entry:
        return f"{name:<34}{entry['failure']}"
    spread = f"{rate_text(entry['lowest'])} - {rate_text(entry['highest'])}"
    ratio = f"{entry['ratio']:.2f}" if "ratio" in entry else ""
    memory = f"{entry['memory_bytes'] / 1e9:.2f} GB"
    told = f"{'  noisy' if entry['noisy'] else ''}{'  ' + entry['failure'] if 'failure' in entry else ''}"
    middle = rate_text(entry["median"])
    return f"{name:<34}{middle:>10}{spread:>20}{memory:>10}{entry['cpu_utilisation']:>6.2f}{ratio:>9}{told}"


def _learnt_line(name: str, entry: dict[str, Any]) -> str:
    if "failure" in entry:
        return f"{name:<34}{entry['failure']}"
    epochs = entry["epochs"]
    reached = "".join(
        f"{'never' if seconds is None else f'{seconds:,.0f}':>12}" for seconds in entry["seconds_to"].values()
    )
    memory = f"{max(epoch['memory_bytes'] for epoch in epochs) / 1e9:.2f} GB"
    each = epochs[-1]["seconds"] / len(epochs)
    return f"{name:<34}{each:>10,.1f}{100 * entry['knn']:>8.1f}{100 * entry['linear']:>8.1f}{reached}{memory:>10}"


def _written(config: EndToEndConfig, precision: Precision, work: Path) -> str:
    """The run's configuration as a file, in a precision."""
    run = {field.name for field in fields(PretrainConfig)}
    content = {name: value for name, value in asdict(replace(config, precision=precision)).items() if name in run}
    path = work / f"{precision}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))))
    return str(path)


def _evaluated(encoder: Path, data: str, protocols: str) -> dict[str, float]:
    """Top-1 by protocol and variant."""
    flags = ["--data.dir", data, "--protocols", protocols, "--controls", "none"]
    command = [sys.executable, "-m", "eval.evaluate", str(encoder), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own module
    if done.returncode:
        raise RunError(f"{encoder}: {' '.join(done.stderr.split())[-300:]}")
    scores = json.loads((encoder / "eval" / "results.json").read_text())["scores"]
    return {f"{score['protocol']} {score['variant']}".strip(): score["value"] for score in scores}
