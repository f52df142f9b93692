"""What ranks send each other in a step, worked out for any number of them.

With k ranks, B images on each, projections of length d, P trained values, and L BatchNorms of C channels in all, F
features and c classes, a rank puts in

    projections                   1 all-gather     4 * 2B d
    gradient of the projections   1 all-reduce     4 * k 2B d
    BatchNorm forward, CPU       2L all-reduces    4 * 2C             forward, CUDA   L all-gathers   4 * (2C + L)
    BatchNorm backward, CPU      2L all-reduces    4 * 2C             backward, CUDA  L all-reduces   4 * 2C
    gradient of the weights         all-reduces    4 * P              2 * P with ddp.comm_hook
    probe                         1 all-reduce     4 * (c (F + 1) + 2)
    non-finite flag               1 all-reduce     4                  with non_finite.policy = skip or rollback
    agreement to go on            1 all-reduce     8 * 4              between hosts, by gloo

bytes, and at every metrics.log_every_steps-th step also

    log line                      4 all-reduces    4 + 8 * 4 + 8 * 2F + 8 * d^2
    log line                      2 all-gathers    4 * 2B d + 8 * 5

How many buckets the gradient of the weights comes in depends on the order in which gradients are there, and is not
worked out. All is for one forward pass a step, without micro_batch.

On the wire, a ring's rank sends of n bytes put in: 2 n (k - 1) / k for an all-reduce, of which the half for a
reduce-scatter, and n (k - 1) for an all-gather; it receives as much. With the global batch kB given, more ranks cost
hardly more, but for BatchNorm's all-gather on CUDA, which grows with k.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.bench.wire_watch import GRADIENT, Traffic, TrafficByKind
from train.config import PretrainConfig

if TYPE_CHECKING:
    from model.simclr import SimCLR

_FLOAT, _DOUBLE, _INT64 = 4, 8, 8
_AGREED, _WATCHED, _PAIRS = 4, 5, 4
"""Numbers that go round between two steps, in a look back, and in the sums over pairs of model/health.py."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What the traffic depends on."""

    parameters: int
    """P, trained values."""
    batchnorms: int
    """L."""
    channels: int
    """C, of all BatchNorms together."""
    features: int
    """F, length of h."""
    projection: int
    """d, length of z."""
    classes: int
    """c, of the online probe; 0 without it."""


def network_of(config: PretrainConfig, model: "SimCLR", classes: int) -> Network:
    """Count what the bare model has."""
    from torch.nn.modules.batchnorm import _BatchNorm

    from model.encoder import count_parameters

    batchnorms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    features = int(model.encoder.num_features)
    return Network(
        parameters=count_parameters(model),
        batchnorms=len(batchnorms),
        channels=sum(module.num_features for module in batchnorms),
        features=features,
        projection=features if config.head.kind == "none" else config.head.dim,
        classes=classes if config.probe.enabled else 0,
    )


def step_traffic(config: PretrainConfig, network: Network, ranks: int, device: str) -> TrafficByKind:
    """What a rank puts in at every step; of the gradient of the weights, `calls` is 0.

    Args:
        config: of the run, without micro_batch.
        network: see `network_of`.
        ranks: 2 or more.
        device: cpu or cuda.
    """
    rows = 2 * (config.global_batch // ranks) * network.projection * _FLOAT
    value = _FLOAT if config.ddp.comm_hook == "none" else _FLOAT // 2
    moments = 2 * network.channels * _FLOAT
    traffic = {
        ("agreement", "all-reduce"): Traffic(1, _AGREED * _INT64),
        ("projections", "all-gather"): Traffic(1, rows),
        ("gradient of the projections", "all-reduce"): Traffic(1, ranks * rows),
        (GRADIENT, "all-reduce"): Traffic(0, network.parameters * value),
    }
    if config.global_batchnorm and network.batchnorms and device == "cpu":
        both = Traffic(2 * network.batchnorms, moments)
        traffic |= {("BatchNorm forward", "all-reduce"): both, ("BatchNorm backward", "all-reduce"): both}
    elif config.global_batchnorm and network.batchnorms:
        forward = Traffic(network.batchnorms, moments + network.batchnorms * _FLOAT)
        traffic |= {
            ("BatchNorm forward", "all-gather"): forward,
            ("BatchNorm backward", "all-reduce"): Traffic(network.batchnorms, moments),
        }
    if network.classes:
        numbers = network.classes * (network.features + 1) + 2
        traffic["probe", "all-reduce"] = Traffic(1, numbers * _FLOAT)
    if config.non_finite.policy != "stop":
        traffic["non-finite flag", "all-reduce"] = Traffic(1, _FLOAT)
    return traffic


def log_traffic(config: PretrainConfig, network: Network, ranks: int) -> TrafficByKind:
    """What a rank puts in beside that at a logging step."""
    rows = 2 * (config.global_batch // ranks) * network.projection * _FLOAT
    sums = _PAIRS + 2 * network.features + network.projection**2
    return {
        ("log line", "all-reduce"): Traffic(4, _FLOAT + sums * _DOUBLE),
        ("log line", "all-gather"): Traffic(2, rows + _WATCHED * _INT64),
    }


def sent_bytes(operation: str, put_in: int, ranks: int) -> int:
    """Bytes that each rank of a ring sends for what it puts into an operation; it receives as many."""
    others = ranks - 1
    if operation == "all-gather":
        return put_in * others
    once = -(-put_in * others // ranks)
    return {"all-reduce": 2 * once, "reduce-scatter": once, "broadcast": put_in}[operation]
