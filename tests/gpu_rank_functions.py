"""What ranks on CUDA devices are asked to compute, and how they are brought together."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu_setting import IMAGES, small_run, trainer_of
from rank_functions import rows_of_rank
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.batchnorm import with_global_batchnorm
from model.config import EncoderConfig, HeadConfig
from model.loss import nt_xent
from model.simclr import SimCLR
from pipelines.loader import Share, training_batches
from pipelines.manifest import open_split
from pipelines.prefetch import Prefetch
from train.lars import LARS


def launched(function: Callable[..., Any], rank: int, port: int, arguments: tuple[Any, ...]) -> Any:
    """Call the function as this rank of two, in the environment that launchers make; tensors come back on the host."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        return function(*arguments)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def under_nccl(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function on the device of this rank's number, once the ranks have met."""
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    return function(*arguments)


def loss_and_gradient(z: Tensor) -> tuple[float, Tensor]:
    """This rank's loss and its rows of the gradient of the mean over ranks."""
    mine = rows_of_rank(z).cuda().requires_grad_()
    loss = nt_xent(mine, 0.2)
    (gradient,) = torch.autograd.grad(loss, mine)
    return loss.item(), gradient.cpu() / dist.get_world_size()


def sync_batchnorm(weight: Tensor, x: Tensor, upstream: Tensor) -> dict[str, Tensor]:
    """Output, input gradient and running statistics of a converted BatchNorm on this rank's rows."""
    plain = nn.BatchNorm2d(len(weight))
    plain.weight.data.copy_(weight)
    module: Any = with_global_batchnorm(plain, torch.device("cuda")).cuda()
    assert isinstance(module, nn.SyncBatchNorm)
    part = x.chunk(2)[dist.get_rank()].cuda().requires_grad_()
    y = module(part)
    (gradient,) = torch.autograd.grad((y * upstream.chunk(2)[dist.get_rank()].cuda()).sum(), part)
    found = {"output": y, "gradient": gradient, "running_mean": module.running_mean, "running_var": module.running_var}
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def weights_after_an_update(views: Tensor) -> dict[str, Tensor]:
    """Of a small network in float64 with global BatchNorm, by NT-Xent and LARS, on this rank's part of the views."""
    distributed = dist.is_initialized()
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    encoder = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)
    model: Any = SimCLR(encoder, HeadConfig(dim=8), 32).double()
    with_global_batchnorm(model, device)
    model.to(device)
    wrapped = DistributedDataParallel(model, device_ids=[device.index]) if distributed else model
    optimizer = LARS(model.parameters(), lr=1.0, weight_decay=1e-4)
    part = rows_of_rank(views) if distributed else views
    nt_xent(wrapped(part.double().to(device))[0], 0.5).backward()
    optimizer.step()
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def devices_after_a_step(shards: Path) -> list[int]:
    """Numbers of the devices on which this process holds a context, after a step made as train/pretrain.py makes it."""
    config = small_run(shards)
    trainer, _ = trainer_of(config)
    share = Share(global_batch=IMAGES, seed=0, rank=dist.get_rank(), world_size=2, ranks_on_node=2, last_step=1)
    split, device = open_split(shards, "train"), trainer.accelerator.device
    with Prefetch(training_batches(split, config.data, config.views, share, device), depth=1) as ahead:
        for batch in ahead:
            trainer.train_step(batch)
    # nvidia-smi would not do: in a container it lists processes by numbers that they do not have there.
    has_context = torch._C._cuda_hasPrimaryContext  # type: ignore[attr-defined]  # torch has no public way to ask
    return [number for number in range(torch.cuda.device_count()) if has_context(number)]
