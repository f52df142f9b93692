"""What the ranks of a pool compute of health numbers and of the online probe, each from its own images."""

import torch
import torch.distributed as dist
from rank_functions import rows_of_rank
from torch import Tensor

from model.health import health
from train.probe import Probe


def health_of_ranks(z: Tensor, h: Tensor, chunk_bytes: int) -> dict[str, float]:
    """Numbers of the global batch, as this rank sees them."""
    return {name: float(value) for name, value in health(rows_of_rank(z), rows_of_rank(h), chunk_bytes).items()}


def probe_after(batches: list[tuple[Tensor, Tensor]]) -> tuple[dict[str, Tensor], float]:
    """State after learning from the global batches in float64, and the accuracy on the way."""
    features = batches[0][0].shape[1]
    probe = Probe(features, 3, 0.05, torch.device("cpu"), torch.float64)
    for h, labels in batches:
        if dist.is_initialized():
            probe.update(rows_of_rank(h), labels.chunk(dist.get_world_size())[dist.get_rank()])
        else:
            probe.update(h, labels)
    return {name: tensor.clone() for name, tensor in probe.state().items()}, float(probe.accuracy())


def accuracy_resumed(batches: list[tuple[Tensor, Tensor]], state: dict[str, Tensor]) -> float:
    """Accuracy of a probe that every rank restores from one state, after the global batches."""
    probe = Probe(batches[0][0].shape[1], 3, 0.05, torch.device("cpu"), torch.float64)
    probe.restore(state)
    for h, labels in batches:
        probe.update(rows_of_rank(h), labels.chunk(dist.get_world_size())[dist.get_rank()])
    return float(probe.accuracy())
