"""Run a benchmark.

python -m ops.bench step --config train/configs/cifar10_cpu.yaml --data.dir DIR
"""

import sys

from ops.bench.step import main as step
from train.distributed import share_cores

_SUBJECTS = {"step": step}


def main() -> None:
    """Hand the arguments to the subject that the first one names."""
    subject = _SUBJECTS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if subject is None:
        print(f"bench: error: name what to measure: {', '.join(_SUBJECTS)}", file=sys.stderr)
        sys.exit(2)
    share_cores()
    subject(sys.argv[2:])


if __name__ == "__main__":
    main()
