"""The processes of a run: what was asked of launcher and hardware is what there is, or one line says what is not."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from model.native_precision import native_precision
from train.compiler_check import refuse_without_compiler
from train.config import PretrainConfig
from train.errors import RunError

if TYPE_CHECKING:
    from accelerate import Accelerator


logger = logging.getLogger(__name__)


def share_cores() -> None:
    """Let OpenMP threads sleep while they wait; call before torch is imported.

    They spin by default: beside any other busy process on the same cores, each waits for threads that are not running,
    and both processes become several times slower. On idle cores sleeping costs nothing that we could measure.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def environment_rank() -> int:
    """Rank of this process, as the launcher says it; known before torch is imported."""
    return int(os.environ.get("RANK", "0"))


def environment_world_size() -> int:
    """Number of processes, as the launcher says it.

    Raises:
        RunError: the launcher was asked for several processes and started one, as `accelerate launch --cpu` does.
    """
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    asked = _processes_asked(next(ancestors_words(), []))
    if asked > 1:
        raise RunError(
            f"{asked} processes were asked for but one was started, as `accelerate launch --cpu` does; use "
            f"`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {asked}` or `torchrun`"
        )
    return 1


def ranks_on_node() -> int:
    """Processes that the launcher started on this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def ancestors_words() -> Iterator[list[str]]:
    """Command lines of the process that started this one, of the one that started that, and so on.

    Ends where they cannot be read.
    """
    process = os.getppid()
    while process:
        try:
            directory = Path(f"/proc/{process}")
            yield directory.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
            status = directory.joinpath("stat").read_text()
        except OSError:
            return
        process = int(status.rpartition(")")[2].split()[1])  # the name, in brackets, may hold anything


def runs_on_cpu(config: PretrainConfig) -> bool:
    """Whether the device that is asked for comes to the CPU on this machine."""
    import torch

    return config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())


def _processes_asked(words: list[str]) -> int:
    """What `--num_processes` says in the command line of an accelerate launcher."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, _, value = word.partition("=")
        if flag.replace("-", "_") == "__num_processes" and "launch" in words:
            number = value or following
            return int(number) if number.isdigit() else 1
    return 1


def make_accelerator(config: PretrainConfig) -> "Accelerator":
    """Set up Accelerate and check that device, precision and world size are what was asked.

    Raises:
        RunError: they are not.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs, ProjectConfiguration

    on_cpu = runs_on_cpu(config)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RunError("device = cuda: torch finds no CUDA device; use device = cpu or check the driver")
    if config.nvtx and on_cpu:
        raise RunError("nvtx = true: needs CUDA; on the CPU use profile, whose trace shows the stages as well")
    if config.precision == "fp16" and on_cpu:
        raise RunError("precision = fp16: needs CUDA; use bf16 or fp32 on the CPU")
    if config.precision == "bf16" and on_cpu and native_precision("cpu") != "bf16":
        logger.warning("precision = bf16: this CPU has no instructions for it; fp32 may be several times as fast")
    refuse_without_compiler(config, on_cpu=on_cpu)
    threads = config.cpu_threads or max(1, len(os.sched_getaffinity(0)) // ranks_on_node())
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # or Accelerate takes a number of its own, and says so
    # torch's older switches throughout: it refuses to read one kind after the other was set.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cudnn.benchmark = config.cudnn_benchmark
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        bucket_cap_mb=config.ddp.bucket_mb,
        static_graph=config.ddp.static_graph,
        comm_hook=DDPCommunicationHookType("no" if config.ddp.comm_hook == "none" else config.ddp.comm_hook),
    )
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        kwargs_handlers=[ddp],
        log_with=list(config.metrics.trackers) or None,
        project_config=ProjectConfiguration(config.run_dir, logging_dir=str(Path(config.run_dir) / "tensorboard")),
    )
    if on_cpu:
        torch.set_num_threads(threads)
    world_size = environment_world_size()
    if accelerator.num_processes != world_size:
        raise RunError(f"the launcher started {world_size} processes but {accelerator.num_processes} joined the group")
    if accelerator.device.type != ("cpu" if on_cpu else "cuda"):
        raise RunError(f"device = {config.device}: accelerate chose {accelerator.device}")
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    with accelerator.autocast():
        one = torch.ones(1, 1, device=accelerator.device)
        got = (one @ one).dtype
    if got != wanted:
        raise RunError(f"precision = {config.precision}: autocast computes in {got} on this device")
    return accelerator


def fail(program: str, error: Exception, *, show: bool) -> NoReturn:
    """Exit with status 2, having printed a user's fault as one line if this rank is to show it."""
    if show:
        print(f"{program}: error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)
