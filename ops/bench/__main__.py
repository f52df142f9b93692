"""Run a benchmark.

python -m ops.bench step --config train/configs/cifar10_cpu.yaml --data.dir DIR
python -m ops.bench loader --cifar DIR --imagenet DIR
python -m ops.bench builder --source images.tar.gz
python -m ops.bench augment --sizes 32,224
python -m ops.bench sharpness --imagenet DIR
python -m ops.bench loss --rows 16384
python -m ops.bench lars --encoder resnet50
python -m ops.bench checkpoint --data.dir DIR
python -m ops.bench end_to_end --config train/configs/cifar10_cpu.yaml --data.dir DIR --peer_python PYTHON
python -m ops.bench all --data_dir DIR --imagenet DIR --peer_python PYTHON --page docs/results/benchmarks.md
python -m ops.bench metrics --config train/configs/cifar10_cpu.yaml --data.dir DIR
python -m ops.bench scaling --config train/configs/cifar10_cpu.yaml
"""

import sys
from importlib import import_module

_SUBJECTS = (
    "step",
    "loader",
    "builder",
    "augment",
    "sharpness",
    "loss",
    "lars",
    "checkpoint",
    "metrics",
    "scaling",
    "end_to_end",
    "all",
)


def main() -> None:
    """Hand the arguments to the subject that the first one names."""
    subject = sys.argv[1] if len(sys.argv) > 1 else ""
    if subject not in _SUBJECTS:
        print(f"bench: error: name what to measure: {', '.join(_SUBJECTS)}", file=sys.stderr)
        sys.exit(2)
    import_module("train.distributed").share_cores()  # before torch is imported
    import_module(f"ops.bench.{subject}").main(sys.argv[2:])


if __name__ == "__main__":
    main()
