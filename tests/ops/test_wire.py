"""The traffic between ranks: formulas where no run is needed. Runs are held to them in tests/train/test_budgets.py."""

import pytest

from ops.bench.wire_formulas import Network, sent_bytes, step_traffic
from ops.bench.wire_watch import Traffic
from pipelines.config import ViewsConfig
from train.config import PretrainConfig, ProbeConfig

NETWORK = Network(parameters=1000, batchnorms=3, channels=40, features=20, projection=8, classes=0)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_ring_sends_each_part_of_an_all_reduce_twice_past_all_others(ranks: int) -> None:
    """Played: each rank passes one of k equal parts on in every round, k - 1 rounds to add up and k - 1 to hand out."""
    part = 12
    put_in = part * ranks
    rounds = ranks - 1
    assert sent_bytes("all-reduce", put_in, ranks) == 2 * rounds * part
    assert sent_bytes("reduce-scatter", put_in, ranks) == rounds * part
    assert sent_bytes("all-gather", put_in, ranks) == rounds * put_in
    assert sent_bytes("broadcast", put_in, ranks) == put_in


def test_on_cuda_batchnorm_gathers_mean_deviation_and_count_of_each_layer() -> None:
    config = PretrainConfig(global_batch=16, views=ViewsConfig(size=32), probe=ProbeConfig(enabled=False))
    traffic = step_traffic(config, NETWORK, 4, "cuda")
    assert traffic["BatchNorm forward", "all-gather"] == Traffic(3, 4 * (2 * 40 + 3))
    assert traffic["BatchNorm backward", "all-reduce"] == Traffic(3, 4 * 2 * 40)
    assert traffic["projections", "all-gather"] == Traffic(1, 2 * 4 * 8 * 4)
    assert not [kind for kind, _ in traffic if kind in ("probe", "non-finite flag")]


def test_batchnorm_of_each_rank_alone_sends_nothing() -> None:
    config = PretrainConfig(global_batch=16, batchnorm="local")
    assert not [kind for kind, _ in step_traffic(config, NETWORK, 2, "cpu") if kind.startswith("BatchNorm")]
