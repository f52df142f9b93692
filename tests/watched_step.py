"""One training step under a watch: what each part of it asks of torch; `python tests/watched_step.py` compares.

Prints the operators that are new or gone since tests/golden/step_operators.txt was written; `--write` writes it anew.
"""

import os
import sys
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState

from model.config import EncoderConfig, HeadConfig
from ops.bench.counting import Watch, Work
from ops.bench.made_batch import made_batch, made_split
from pipelines.config import DataConfig, ViewsConfig
from train.build import build
from train.config import PretrainConfig
from train.distributed import make_accelerator
from train.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "golden" / "step_operators.txt"
WAYS = ("cpu", "cuda")
"""Where loss and LARS have two ways to the same numbers, that of a CPU in float32 and that of CUDA in bf16; the latter
is followed on the CPU, too, as are its operators."""
_WARM_UP_STEPS = 2

Operators = dict[tuple[str, str, str], int]
"""By way, part and operator: how often."""


def step_config(way: str, threads: int = 1) -> PretrainConfig:
    """The step that budgets are for: ResNet-18 at an eighth of its width, both views of 8 images of 32 pixels."""
    return PretrainConfig(
        data=DataConfig(canvas=32),
        views=ViewsConfig(size=32),
        encoder=EncoderConfig(name="resnet18", stem="cifar", width=0.125),
        head=HeadConfig(dim=16),
        global_batch=8,
        precision="fp32" if way == "cpu" else "bf16",
        device="cpu",
        cpu_threads=threads,
    )


def trainer_for(config: PretrainConfig) -> Trainer:
    """As train/pretrain.py makes it, for batches of noise."""
    AcceleratorState._reset_state(reset_partial_state=True)  # a process is meant to have one precision only
    return build(config, made_split(config), make_accelerator(config))[0]


def watched_step(way: str, threads: int = 1) -> dict[str, Work]:
    """Work of each part of a step that others came before, in their order."""
    config = step_config(way, threads)
    trainer = trainer_for(config)
    trainer.optimizer.optimizer._flat = way == "cuda"
    with patch("model.loss._one_shift_serves", lambda *_: way == "cpu"):
        for step in range(_WARM_UP_STEPS):
            trainer.train_step(made_batch(config, step, torch.device("cpu")))
        batch = made_batch(config, _WARM_UP_STEPS, torch.device("cpu"))
        watch = Watch(lambda: str(trainer.clock.stage))
        with watch:
            trainer.train_step(batch)
    return dict(watch.work)


def operators_now() -> Operators:
    """Of both ways."""
    return {
        (way, part, operator): count
        for way in WAYS
        for part, work in watched_step(way).items()
        for operator, count in sorted(work.operators.items())
    }


def recorded_operators() -> Operators:
    """What RECORD says."""
    rows = (line.split() for line in RECORD.read_text().splitlines())
    return {(way, part, operator): int(count) for way, part, operator, count in rows}


def differences(before: Operators, now: Operators) -> list[str]:
    """Lines, one for each operator that comes more or less often than it did."""
    keys = sorted(before.keys() | now.keys())
    old, new = Counter(before), Counter(now)
    return [f"{' '.join(key)}: {old[key]} -> {new[key]}" for key in keys if old[key] != new[key]]


def main() -> None:
    """Print the differences, and write the record if asked to."""
    now = operators_now()
    print("\n".join(differences(recorded_operators() if RECORD.exists() else {}, now)) or "no operator is new or gone")
    if "--write" in sys.argv[1:]:
        RECORD.write_text("".join(f"{' '.join(key)} {count}\n" for key, count in now.items()))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
