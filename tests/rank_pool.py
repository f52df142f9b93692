"""A pool of gloo ranks that lives through a test session, because starting them takes longer than most tests."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class RankPool:
    """`run(function, *arguments)` calls function(*arguments) on every rank and returns the results by rank.

    Functions stand in rank_functions.py, where the children can import them.
    """

    def __init__(self, world_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._pipes = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, rank, world_size, port), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call on all ranks at once.

        Raises:
            RuntimeError: a rank raised; holds its traceback.
        """
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, arguments)))  # send() would share tensors' memory between ranks
        answers = [pickle.loads(pipe.recv_bytes()) for pipe in self._pipes]
        for ok, answer in answers:
            if not ok:
                raise RuntimeError(answer)
        return [answer for _, answer in answers]

    def close(self) -> None:
        """Stop the ranks."""
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps(None))
        for process in self._processes:
            process.join(timeout=20)


def _work(pipe: "Connection[Any, Any]", rank: int, world_size: int, port: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    while (call := pickle.loads(pipe.recv_bytes())) is not None:
        function, arguments = call
        try:
            pipe.send_bytes(pickle.dumps((True, function(*arguments))))
        except Exception:  # noqa: BLE001  # told to the test
            pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
    dist.destroy_process_group()
