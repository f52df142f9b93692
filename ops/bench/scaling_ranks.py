"""Steps of several configurations on one rank, and the processes that are the other ranks.

Processes live through the whole benchmark, asleep while others are measured, so that rounds can be interleaved.
"""

import multiprocessing
import os
import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ops.bench.wire_watch import TrafficByKind
from train.config import PretrainConfig
from train.errors import RunError

if TYPE_CHECKING:
    from ops.bench.wire_formulas import Network
    from pipelines.loader import Batch
    from train.trainer import Trainer

_WARM_UP_STEPS = 2
"""After which DDP has formed its buckets."""


class RankSteps:
    """Trainers of this rank by their number among the configurations, built when first asked for, and kept."""

    def __init__(self, configs: Sequence[PretrainConfig], rank: int, ranks: int) -> None:
        self._configs, self._rank, self._ranks = configs, rank, ranks
        self._built: dict[int, tuple[Trainer, Batch, Network]] = {}

    def seconds(self, number: int, steps: int) -> float:
        """Of a step on this rank, its views and the update, from a canvas that is on the device."""
        from ops.bench.timing import seconds_of

        trainer, batch, _ = self._trainer(number)
        trainer.train_step(batch)

        def work() -> None:
            for _ in range(steps):
                trainer.train_step(batch)

        return seconds_of(work, trainer.accelerator.device) / steps

    def traffic(self, number: int) -> tuple[TrafficByKind, "Network"]:
        """What this rank puts into collectives in a step, and what that depends on."""
        from ops.bench.wire_watch import WireWatch

        trainer, batch, network = self._trainer(number)
        wire = WireWatch()
        with wire:
            trainer.train_step(batch)
        return dict(wire.traffic), network

    def _trainer(self, number: int) -> "tuple[Trainer, Batch, Network]":
        if number not in self._built:
            from ops.bench.made_batch import CLASSES, made_batch, made_split
            from ops.bench.wire_formulas import network_of
            from train.build import build
            from train.distributed import make_accelerator

            config = self._configs[number]
            accelerator = make_accelerator(config)
            trainer, model = build(config, made_split(config), accelerator)
            batch = made_batch(config, 0, accelerator.device, self._rank, self._ranks)
            for _ in range(_WARM_UP_STEPS):
                trainer.train_step(batch)
            self._built[number] = trainer, batch, network_of(config, model, CLASSES)
        return self._built[number]


class RankProcesses:
    """`seconds` and `traffic` as of RankSteps, on several ranks at once; a context manager."""

    def __init__(self, configs: Sequence[PretrainConfig], ranks: int) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._pipes, self._processes = [], []
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, list(configs), rank, ranks, port), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> "RankProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()  # which ends the process
        for process in self._processes:
            process.join(timeout=30)
            process.kill()

    def seconds(self, number: int, steps: int) -> float:
        """Of the slowest rank."""
        slowest: float = max(self._all("seconds", number, steps))
        return slowest

    def traffic(self, number: int) -> tuple[TrafficByKind, "Network"]:
        """Of rank 0, which puts in what every other does."""
        answer: tuple[TrafficByKind, Network] = self._all("traffic", number)[0]
        return answer

    def _all(self, method: str, *arguments: int) -> list[Any]:
        """Answers by rank.

        Raises:
            RunError: a rank cannot.
        """
        for pipe in self._pipes:
            pipe.send((method, arguments))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            try:
                answer = pipe.recv()
            except EOFError:
                answer = RunError("its process has ended")
            if isinstance(answer, Exception):
                raise RunError(f"rank {rank} of {len(self._pipes)}: {answer}")
            answers.append(answer)
        return answers


def _serve(pipe: "Connection[Any, Any]", configs: Sequence[PretrainConfig], rank: int, ranks: int, port: int) -> None:
    from train.ranks import join_ranks, leave_ranks

    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in names.items()}}
    join_ranks(configs[0])
    steps = RankSteps(configs, rank, ranks)
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send(getattr(steps, method)(*arguments))
        except Exception as error:  # noqa: BLE001  # told by the process that asked
            pipe.send(RunError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    leave_ranks()
