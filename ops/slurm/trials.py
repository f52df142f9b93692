"""What is tried on the cluster of two nodes: jobs by the batch files as they stand, interrupted in every way.

    python -m ops.slurm.trials DIRECTORY DATA      in the namespaces that ops/slurm/check.py makes

Two ranks, one on each node, train on CPUs over gloo. No checkpoint is made but when a run is asked to stop, or ends: a
run that goes on at a later step than 0 has saved when it was asked.
"""

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ops.chaos.run import differences, look, training_arguments
from ops.slurm.cluster import KILL_WAIT_SECONDS, ClusterError, Job, call, job, start_cluster, submit, wait_for

_ENDLESS = 1_000_000
_STEPS_BETWEEN = 15
"""That a run makes after each start before it is interrupted again."""
_RUN_SECONDS = 300.0
_COMPLETED = Job(state="COMPLETED", restarts=0, exit_status=0)
_RESUMED = re.compile(r"resuming after step (\d+) ")
_FLAGS = ("--schedule.epochs=100000", f"--checkpoint.every_steps={_ENDLESS}")
_TWO_NODES = (
    "--nodes=2",
    "--ntasks-per-node=1",
    "--cpus-per-task=2",
    "--gpus-per-node=1",
    "ops/slurm/many_nodes.sbatch",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job on two nodes and its run directory."""

    name: str
    number: str
    directory: Path

    @property
    def job(self) -> Job:
        """As it is now."""
        return job(self.number)

    @property
    def output(self) -> str:
        """Of all its starts: the batch files append."""
        return _output(self.directory.parent, self.name).read_text()

    def end(self) -> Job:
        """Wait for it."""
        wait_for(lambda: self.job.ended or None, _RUN_SECONDS, f"the end of {self.name}")
        return self.job

    def restart(self, count: int) -> None:
        """Wait until it has left its nodes and is back in the queue, or further, for this time."""
        back = ("PENDING", "CONFIGURING", "RUNNING")

        def is_back() -> bool | None:
            now = self.job
            return (now.restarts == count and now.state in back) or None

        wait_for(is_back, _RUN_SECONDS, f"restart {count} of {self.name}")

    def train(self) -> int:
        """Wait until it has made some steps beyond its newest checkpoint; returns the last one."""

        def has_trained() -> bool | None:
            now = look(self.directory)
            if self.job.ended:
                raise ClusterError(f"{self.name} ended as {self.job} before it was interrupted")
            return now.step >= now.checkpoint + _STEPS_BETWEEN or None

        wait_for(has_trained, _RUN_SECONDS, f"steps of {self.name}")
        return look(self.directory).step


def main(directory: Path, data_dir: str) -> int:
    """Try everything; returns 1 if something did not hold, which is printed."""
    os.environ["PYTHON"] = sys.executable
    begin = time.monotonic()
    try:
        start_cluster(directory)
        print(f"{call('slurmctld', '-V').strip()}, two nodes", flush=True)
        faults = [fault for trial in TRIALS for fault in trial(directory, data_dir)]
    except ClusterError as error:
        faults = [_say_fault(str(error))]
    said = f"{len(faults)} faults" if faults else "all held"
    print(f"{said}; {time.monotonic() - begin:.0f} s", flush=True)
    return 1 if faults else 0


def try_interruptions(directory: Path, data_dir: str) -> list[str]:
    """A run that is interrupted in four ways goes on each time, and ends in the bytes of one that is not."""
    run = _start("interrupted", directory, data_dir, _ENDLESS)
    urgent = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    interruptions: tuple[tuple[str, Callable[[], object]], ...] = (
        ("scontrol requeue", partial(call, "scontrol", "requeue", run.number)),
        ("preempted by an urgent job", partial(submit, *urgent)),
        ("warned of its time limit", partial(call, "scontrol", "update", f"JobId={run.number}", "TimeLimit=3")),
    )
    faults: list[str] = []
    saved: list[int] = []
    for count, (name, interrupt) in enumerate(interruptions, start=1):
        step = run.train()
        interrupt()
        run.restart(count)
        call("scontrol", "update", f"JobId={run.number}", "TimeLimit=30")
        saved.append(look(run.directory).checkpoint)
        faults += _judge(
            f"{name}, at step {step} or later: saved at step {saved[-1]}, back in the queue",
            {f"that is before step {step}": saved[-1] >= step},
        )
    step, begin = run.train(), time.monotonic()
    call("scancel", run.number)
    end, seconds = run.end(), time.monotonic() - begin
    saved.append(look(run.directory).checkpoint)
    faults += _judge(
        f"scancel, at step {step} or later: saved at step {saved[-1]}, over after {seconds:.1f} s",
        {
            f"that is before step {step}": saved[-1] >= step,
            f"that is more than KillWait = {KILL_WAIT_SECONDS} s": seconds < KILL_WAIT_SECONDS,
            f"the job is {end}": (end.state, end.restarts) == ("CANCELLED", len(interruptions)),
        },
    )
    last_step = saved[-1] + _STEPS_BETWEEN
    end = _start("interrupted", directory, data_dir, last_step).end()
    resumed = [int(step) for step in _RESUMED.findall(run.output)]
    faults += _judge(
        f"submitted again: went on at step {saved[-1]}, ended after step {last_step}",
        {f"the job is {end}": end == _COMPLETED, f"it went on at {resumed}, not at {saved}": resumed == saved},
    )
    return faults + _compare(directory, data_dir, last_step)


def _compare(directory: Path, data_dir: str, last_step: int) -> list[str]:
    undisturbed = _start("undisturbed", directory, data_dir, last_step)
    end = undisturbed.end()
    where = call("scontrol", "--oneliner", "show", "job", undisturbed.number)
    found = differences(directory / "interrupted", undisturbed.directory, last_step)
    return _judge(
        f"not interrupted: step {last_step} again; weights, momenta, probe, encoder and losses are compared",
        {f"the job is {end}": end == _COMPLETED, "it did not run on both nodes": "NodeList=node[1-2] " in where}
        | dict.fromkeys(found, False),
    )


def try_refused(directory: Path, data_dir: str) -> list[str]:
    """What is wrong is said in a line by one of eight ranks, and the job is not started again."""
    where = ("--data.dir", f"{data_dir}/none", "--run_dir", str(directory / "refused"))
    number = submit(f"--output={_output(directory, 'refused')}", "ops/slurm/one_node.sbatch", *where)
    run = Run(name="refused", number=number, directory=directory / "refused")
    end = run.end()
    said = [line for line in run.output.splitlines() if "error: " in line and not line.startswith("srun")]
    return _judge(
        f"refused: {said[0] if said else 'nothing was said'}",
        {
            f"the job is {end}": end == Job(state="FAILED", restarts=0, exit_status=2),
            f"it is said {len(said)} times": len(said) == 1,
        },
    )


def try_array(directory: Path, data_dir: str) -> list[str]:
    """Each task of an array trains its line of the file."""
    steps = 5
    cells = directory / "cells.txt"
    cells.write_text("seed-0 --seed=0\nlinear --seed=0 --head.kind=linear\n")
    *flags, _ = training_arguments(data_dir, directory, steps)  # the last is the run directory
    number = submit("--array=0-1", f"--output={directory}/array-%a.out", "ops/slurm/array.sbatch", str(cells),
                    str(directory / "array"), *flags, "--device=cpu")  # fmt: skip
    tasks = [f"{number}_{task}" for task in range(2)]
    wait_for(lambda: all(job(task).ended for task in tasks) or None, _RUN_SECONDS, "the end of the array")
    wrong = {f"task {task} is {job(task)}": job(task) == _COMPLETED for task in tasks}
    reached = {name: look(directory / "array" / name).step for name in ("seed-0", "linear")}
    return _judge(
        "array: two runs, each in its directory", wrong | {f"steps are {reached}": set(reached.values()) == {steps}}
    )


TRIALS = (try_refused, try_interruptions, try_array)


def _start(name: str, directory: Path, data_dir: str, steps: int, *flags: str) -> Run:
    run_dir = directory / name
    training = [*training_arguments(data_dir, run_dir, steps), "--device=cpu", *_FLAGS]
    number = submit(f"--output={_output(directory, name)}", *_TWO_NODES, *training, *flags)
    return Run(name=name, number=number, directory=run_dir)


def _output(directory: Path, name: str) -> Path:
    return directory / f"{name}.out"


def _judge(what: str, holds: dict[str, bool]) -> list[str]:
    """Print what was tried, and what of it did not hold; returns the latter."""
    print(what, flush=True)
    return [_say_fault(f"{what}: {fault}") for fault, held in holds.items() if not held]


def _say_fault(fault: str) -> str:
    print(f"FAULT: {fault}", flush=True)
    return fault


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
