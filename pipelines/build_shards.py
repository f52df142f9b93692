"""Builds data set directories from raw images, and works on those that are there.

    python -m pipelines.build_shards textures --output data/textures
    python -m pipelines.build_shards cifar10 --output data/cifar10
    python -m pipelines.build_shards folder --source images.tar.gz --output data/images
    python -m pipelines.build_shards imagenet --source /raw/imagenet --output data/imagenet --resize canvas:256
    python -m pipelines.build_shards torchvision --name pets --root /raw --download true --output data/pets
    python -m pipelines.build_shards reshuffle data/images --output data/images256 --seed 1 --resize short:256
    python -m pipelines.build_shards verify data/images

A data set appears complete or not at all. A build that was stopped leaves `.NAME.partial` beside its output, and the
same command goes on from there. Its bytes depend on source, seed and options alone: not on how many processes, parts or
attempts wrote it.

On several machines with one file system each part writes its share, and merge makes the data set of them:

    # Slurm: sbatch --array=0-7; Kubernetes: an indexed Job with completions: 8, and $JOB_COMPLETION_INDEX instead
    python -m pipelines.build_shards imagenet --source /raw/imagenet --output data/im --part $SLURM_ARRAY_TASK_ID/8
    python -m pipelines.build_shards merge --output data/im
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from pipelines.build.build_arguments import add_build_commands
from pipelines.errors import DataError
from pipelines.messages import say
from pipelines.tools.tool_arguments import add_tool_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0; 1 if verification finds faults; 2 for bad input."""
    parser = _Parser(
        prog="python -m pipelines.build_shards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_build_commands(commands)
    add_tool_commands(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (DataError, OSError) as error:
        say(f"error: {' '.join(str(error).splitlines())}")
        return 2
    except KeyboardInterrupt:
        say("interrupted; a build that is run again goes on from here")
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        say(f"error: {message}")
        sys.exit(2)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process and no half-written file is left
    sys.exit(main())
