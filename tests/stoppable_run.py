"""train/pretrain.py with one slow or broken place: python stoppable_run.py PLACE DIRECTORY FLAGS...

On reaching a slow place a rank leaves DIRECTORY/at-rank-R; the steps it has made stand in DIRECTORY/steps-rank-R.
"""

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import train.loop
import train.pretrain
import train.run
import train.run_saver
from train.distributed import environment_rank

PLACE, DIRECTORY, RANK = sys.argv[1], Path(sys.argv[2]), environment_rank()
LAST_RANK = int(os.environ.get("WORLD_SIZE", "1")) - 1
STEP = 7
"""From 0, at which the place is slow."""
SECONDS = {"forward": 2.0, "checkpoint": 2.0, "logging": 2.0, "stuck": 600.0}


def arrive() -> None:
    (DIRECTORY / f"at-rank-{RANK}").touch()
    if PLACE == "interpreter":
        ctypes.PyDLL(None).sleep(600)  # a call that keeps the interpreter to itself
    if PLACE == "deaf":
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):  # the second time it waits for itself, in a call that no signal ends
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
    time.sleep(SECONDS.get(PLACE, 0))


loop: Any = train.loop
saver: Any = train.run_saver
run: Any = train.run
make_step = loop.Trainer.train_step
write_checkpoint = saver.save_checkpoint
make_log_line = loop.log_line
read_batches = run.training_batches


def train_step(trainer: Any, batch: Any, *, examine: bool = False) -> Any:
    if batch.step == STEP and (PLACE in ("forward", "deaf", "interpreter") or (PLACE == "stuck" and RANK == LAST_RANK)):
        arrive()
    if PLACE == "left out":
        trainer.left_out = frozenset({STEP})
    views = trainer.views
    if batch.step == STEP and PLACE == "lost views" and RANK == LAST_RANK:
        trainer.views = lambda *given: views(*given) * float("nan")
    outcome = make_step(trainer, batch, examine=examine)
    trainer.views = views
    with (DIRECTORY / f"steps-rank-{RANK}").open("a") as file:
        file.write(f"{batch.step + 1}\n")
    time.sleep(0.05)
    return outcome


def save_checkpoint(*arguments: Any) -> Any:
    if PLACE == "checkpoint":
        arrive()
    return write_checkpoint(*arguments)


def log_line(trainer: Any, batch: Any, *arguments: Any) -> Any:
    if PLACE == "logging" and batch.step == STEP:
        arrive()
    return make_log_line(trainer, batch, *arguments)


def training_batches(*arguments: Any) -> Iterator[Any]:
    for batch in read_batches(*arguments):
        if PLACE == "data" and batch.step == STEP and RANK == LAST_RANK:
            arrive()
            arguments[-1].wait()  # for the end of the run: this batch never comes
        yield batch


loop.Trainer.train_step = train_step
saver.save_checkpoint = save_checkpoint
loop.log_line = log_line
run.training_batches = training_batches

if __name__ == "__main__":
    sys.argv[1:] = sys.argv[3:]
    train.pretrain.main()
