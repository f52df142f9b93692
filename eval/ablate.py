"""A study of Chen et al. 2020: the same run with one or two things changed, each cell trained and scored alike.

    python -m eval.ablate head --config train/configs/cifar10_cpu.yaml --data.dir DIR --epochs 6
    python -m eval.ablate augmentations --config FILE --data.dir DIR --images 10000 --budget 60m -- --precision=fp32

Every cell is an ordinary run directory, OUTPUT/CELL/seed-N. What is done is not done again: the same command goes on
where it stopped. Flags after `--` are train/pretrain.py's, for every cell. Writes OUTPUT/results.json, OUTPUT/STUDY.md,
OUTPUT/STUDY.png and .svg. Exit status: 0 done; 2 refused, or a run failed (with --cell the run's own); 75 asked to
stop. docs/studies.md.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from eval.errors import EvaluationError
from eval.studies.config import StudyConfig
from eval.studies.figures import draw, refuse_without_matplotlib
from eval.studies.files import say, write_json, write_text
from eval.studies.opening import Opened, announcement, open_all, threads_of, with_budget
from eval.studies.results import report, summary
from eval.studies.runs import STOPPED, Children, FailedError, StoppedError
from eval.studies.scores import run_scores
from pipelines.errors import DataError
from pipelines.tools.broken_pipe import reader_may_leave
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError


def main() -> None:
    """Refuse what is wrong, then run, or list, or collect."""
    arguments, training = _divided(sys.argv[1:])
    try:
        config = parse(StudyConfig, arguments, prog="ablate")
        if not (config.cell or config.list):
            refuse_without_matplotlib()
        opened = open_all(config, training)
        if config.list:
            with reader_may_leave():
                print_list(opened)
            return
        failed: dict[str, str] = {}
        if not config.collect:
            children = Children(threads_of(config))
            if config.budget and opened.plan is None:
                opened = with_budget(opened, children)
            say(announcement(opened))
            failed = run_all(opened, children)
        if not config.cell:
            text = collect(opened, failed)
            with reader_may_leave():
                print(text)
        if failed:
            name, reason = next(iter(failed.items()))
            raise EvaluationError(f"{len(failed)} of {len(opened.runs)} runs failed; {name}: {reason}")
    except StoppedError:
        say("ablate: asked to stop; the same command goes on")
        sys.exit(STOPPED)
    except FailedError as error:
        say(f"ablate: error: {error}")
        sys.exit(error.status if config.cell else 2)  # whether to try again is for Slurm or Kubernetes to say
    except (EvaluationError, RunError, DataError) as error:
        fail("ablate", error, show=True)


def print_list(opened: Opened) -> None:
    """The runs with their numbers, and whether they are done."""
    for run in opened.runs:
        state = "done" if opened.work.is_done(run) else "to do"
        print(f"{run.number:4d}  {state:5}  {run.name}  {' '.join(run.cell.flags)}")
    print(
        f"{len(opened.runs)} runs: --array=0-{len(opened.runs) - 1} of Slurm, completions: {len(opened.runs)} of a Job"
    )


def run_all(opened: Opened, children: Children) -> dict[str, str]:
    """Make the runs that are not done, `jobs` at once, or the one that is asked for.

    Returns:
        What was wrong, by the name of the run.

    Raises:
        StoppedError: asked to stop.
        FailedError: a run failed before any had succeeded: the others would most likely fail, too.
    """
    work, began = opened.work, time.monotonic()
    todo = [run for run in opened.asked if not work.is_done(run)]
    failed: dict[str, str] = {}
    done = 0
    with ThreadPoolExecutor(opened.config.jobs) as pool:
        futures = {pool.submit(work.make, run, children): run for run in todo}
        try:
            for future in as_completed(futures):
                run = futures[future]
                failure = _failure(future)
                if failure:
                    failed[run.name] = str(failure)
                    say(f"{run.name} failed: {failure}")
                    if not done:
                        raise failure
                    continue
                done += 1
                ended = done + len(failed)
                left = (time.monotonic() - began) / ended * (len(todo) - ended) / 60
                scores = run_scores(work.directory / run.name, work.study, work.protocols)
                told = ", ".join(f"{name} {100 * share:.1f}" for name, share in scores.items())
                say(f"{ended} of {len(todo)}: {run.name}: {told}; {future.result():.0f} s; {left:.0f} min to go")
                if not opened.config.cell:
                    collect(opened, failed, figure=False)
        except EvaluationError:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
    return failed


def _failure(future: "Future[float]") -> FailedError | None:
    """What was wrong with a run, if anything.

    Raises:
        StoppedError: it was asked to stop.
    """
    try:
        future.result()
    except FailedError as error:
        return error
    return None


def collect(opened: Opened, failed: dict[str, str], *, figure: bool = True) -> str:
    """Write results.json, STUDY.md and the figure from what is there; returns the table's file.

    Raises:
        EvaluationError: a file is damaged or cannot be written, or a run has other settings.
    """
    work, config, manifest = opened.work, opened.config, opened.train.manifest
    made = {
        "network": "" if "depth" in work.study.axes else f"{opened.base.encoder.name} x{opened.base.encoder.width:g}",
        "config": Path(config.base).name,
        "settings": list(work.settings.training),
        "epochs": work.settings.epochs,
        "seeds": list(config.seed_numbers),
        "data": {"name": manifest.name, "fingerprint": manifest.fingerprint, "images": len(opened.train)},
        "budget": asdict(opened.plan) if opened.plan else None,
    }
    results = summary(work, opened.runs, made, failed)
    text = report(work, results)
    write_json(work.directory / "results.json", results)
    write_text(work.directory / f"{work.study.name}.md", text + "\n")
    if figure:
        draw(work.study, results, work.directory / work.study.name)
    return text


def _divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and those after `--`, which are train/pretrain.py's.

    The study, which comes first, gets its name; so does `--config`, which the parser would take for a file of ours.
    """
    ours = list(arguments)
    training: list[str] = []
    if "--" in ours:
        training = ours[ours.index("--") + 1 :]
        del ours[ours.index("--") :]
    named = [word.replace("--config", "--base", 1) if word.startswith("--config") else word for word in ours]
    if named and not named[0].startswith("-"):
        named[0] = f"--study={named[0]}"
    return named, training


if __name__ == "__main__":
    main()
