"""Try the batch files on a Slurm cluster that is made for it and goes with it.

    python -m ops.slurm.check --data.dir data/textures

Two nodes on this machine: each has a host name, network and slurmd of its own. Jobs of two CPU ranks are requeued,
preempted, warned of their time limit, cancelled and refused; one that was interrupted three times must end in the same
bytes as one that was not. Takes about five minutes on two cores. Needs root, for the namespaces, and Slurm's daemons.
Exit status: 0 all held, 1 something did not, 2 refused: what is missing is named.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = {  # Debian's
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "srun": "slurm-wlm",
    "munged": "munge",
    "ip": "iproute2",
    "unshare": "util-linux",
}
_NAMESPACES = ("unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


@dataclass(frozen=True, kw_only=True)
class CheckData:
    """What the runs learn from."""

    dir: str = "data/textures"
    """Data set directory made by `python -m pipelines.build_shards`."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Where it reads and writes."""

    data: CheckData = field(default_factory=CheckData)
    output: str = ""
    """Directory for the cluster's logs, the jobs' output and their runs; kept. Empty: a temporary one, kept if
    something did not hold."""


def main(arguments: Sequence[str]) -> int:
    """Run the trials in namespaces of their own; returns the exit status."""
    try:
        config = parse(CheckConfig, arguments, prog="slurm")
        refuse_what_is_missing()
        directory = open_directory(config)
    except RunError as error:
        fail("slurm", error, show=True)
    print(f"logs, output of the jobs and runs are in {directory}", flush=True)
    trials = [sys.executable, "-m", "ops.slurm.trials", str(directory), str(Path(config.data.dir).resolve())]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or the cluster would outlive it
    # Whatever Slurm knows of the surroundings, should this be a job itself, is not meant for the jobs in it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    status = subprocess.run([*_NAMESPACES, *trials], cwd=_ROOT, env=environment, check=False).returncode  # noqa: S603
    if status == 0 and not config.output:
        shutil.rmtree(directory)
    return status


def refuse_what_is_missing() -> None:
    """Look for programs and rights.

    Raises:
        RunError: there are not all.
    """
    packages = sorted({package for program, package in _PACKAGES.items() if shutil.which(program) is None})
    if packages:
        raise RunError(f"programs are missing: apt-get install {' '.join(packages)}")
    probe = subprocess.run([*_NAMESPACES, "true"], capture_output=True, text=True, check=False)  # noqa: S603
    if probe.returncode:
        raise RunError(
            f"no namespaces can be made ({' '.join(probe.stderr.split())}); be root, in a container with --privileged"
        )


def open_directory(config: CheckConfig) -> Path:
    """Make the directory.

    Raises:
        RunError: there is no such data, or the directory cannot be used.
    """
    if not (Path(config.data.dir) / "manifest.json").exists():
        raise RunError(f"data.dir = {config.data.dir}: no data set; build one with `python -m pipelines.build_shards`")
    try:
        directory = Path(config.output).resolve() if config.output else Path(tempfile.mkdtemp(prefix="diptych-slurm-"))
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise RunError(f"output = {directory}: not empty; name another directory")
    except OSError as error:
        raise RunError(f"output = {config.output}: {error.strerror}; name a directory that can be written to") from None
    return directory


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
