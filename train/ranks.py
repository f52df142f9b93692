"""The processes of a run: how they find each other, and what they tell each other beside the training itself."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

from train.config import PretrainConfig
from train.distributed import environment_rank, environment_world_size, runs_on_cpu
from train.errors import RunError

_POLL_SECONDS = 0.2


class OtherRankError(RunError):
    """A fault that all ranks raise with the same message, because one of them met it."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """What one process knows of the others; of one process alone every answer is its own.

    All of it goes over gloo, between hosts: it never waits for a device, and never mixes with the gradients' traffic.
    Each method is to be called by all ranks, in the same order.
    """

    rank: int = 0
    world_size: int = 1
    store: "Store | None" = None
    """Keys and values that all ranks see; it lives where the launcher does, or on rank 0."""
    control: "dist.ProcessGroup | None" = None

    def most(self, values: Sequence[int]) -> list[int]:
        """Elementwise maximum over ranks."""
        if self.control is None:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.control)
        result: list[int] = numbers.tolist()
        return result

    def texts(self, text: str) -> list[str]:
        """Every rank's text, by rank."""
        if self.control is None:
            return [text]
        own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        (longest,) = self.most([len(own)])
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded, group=self.control)
        return [bytes(part.tolist()).rstrip(b"\0").decode() for part in parts]

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's, in place, of a shape that all know; on the host."""
        if self.control is not None:
            dist.broadcast(tensor, 0, group=self.control)
        return tensor

    def from_rank_0(self, work: Callable[[], Any]) -> Any:
        """What `work`, called on rank 0 alone, returns: anything that JSON can hold.

        Raises:
            OtherRankError: it raised a RunError.
        """
        answer: dict[str, Any] = {}
        if self.rank == 0:
            try:
                answer = {"value": work()}
            except RunError as error:
                answer = {"error": str(error)}
        told = json.loads(self.texts(json.dumps(answer))[0])
        if "error" in told:
            raise OtherRankError(told["error"])
        return told["value"]


def join_ranks(config: PretrainConfig) -> Ranks:
    """Meet the other processes that the launcher started.

    The launcher's store outlives a restart of its processes (`--max_restarts`), and with it what they had said: each
    attempt has keys of its own.

    Raises:
        RunError: ranks are missing when `timeouts.startup_seconds` are over.
    """
    rank, world_size = environment_rank(), environment_world_size()
    if world_size == 1:
        return Ranks()
    timeout = timedelta(seconds=config.timeouts.startup_seconds)
    store = PrefixStore(f"diptych/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", _store(rank, timeout))
    _wait_for_all(store, rank, world_size, config.timeouts.startup_seconds)
    backend = "gloo" if runs_on_cpu(config) else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    control = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(control, dist.ProcessGroup)  # noqa: S101  # every rank is a member
    return Ranks(rank=rank, world_size=world_size, store=store, control=control)


def leave_ranks() -> None:
    """Close the group in good order; only where all ranks come here."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _store(rank: int, timeout: timedelta) -> Store:
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500"))
    of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        return TCPStore(host, port, is_master=rank == 0 and not of_launcher, timeout=timeout, wait_for_workers=False)
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"rank {rank} cannot reach the store at {host}:{port} ({reason}); check MASTER_ADDR, MASTER_PORT and "
            "that rank 0 runs"
        ) from None


def _wait_for_all(store: Store, rank: int, world_size: int, seconds: float) -> None:
    """Wait until all have come; a store's own barrier would not say who has not."""
    store.set(f"joined/{rank}", "")
    deadline = time.monotonic() + seconds
    missing = list(range(world_size))
    while missing := [other for other in missing if not store.check([f"joined/{other}"])]:
        if time.monotonic() > deadline:
            who = ", ".join(map(str, missing))
            raise RunError(
                f"{len(missing)} of {world_size} ranks did not join within timeouts.startup_seconds = {seconds:g}: "
                f"{who}; look at their output"
            )
        time.sleep(_POLL_SECONDS)
