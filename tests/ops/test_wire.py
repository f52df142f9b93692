"""The traffic between ranks: formulas where no run is needed. Runs are held to them in tests/train/test_budgets.py."""

from pathlib import Path

import pytest
import torch

from model.simclr import SimCLR
from ops.bench.wire_formulas import Network, network_of, sent_bytes, step_traffic
from ops.bench.wire_watch import GRADIENT, Traffic
from pipelines.config import ViewsConfig
from train.config import PretrainConfig, ProbeConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
NETWORK = Network(parameters=1000, batchnorms=3, channels=40, features=20, projection=8, classes=0)
RANKS = tuple(f"| {ranks} | " for ranks in (2, 8, 64, 512))


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


def test_the_documented_traffic_of_imagenet_is_by_the_formulas() -> None:
    config = load_config(ROOT / "train" / "configs" / "imagenet.yaml")
    with torch.device("meta"):
        network = network_of(config, SimCLR(config.encoder, config.head, config.views.size), classes=1000)
    lines = (ROOT / "docs" / "performance_budgets.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith(RANKS)]
    assert [int(row[0]) for row in rows] == [2, 8, 64, 512]
    for row in rows:
        ranks = int(row[0])
        sent: dict[str, float] = {}
        for (carried, operation), each in step_traffic(config, network, ranks, "cuda").items():
            name = "BatchNorm" if carried.startswith("BatchNorm") else carried
            sent[name] = sent.get(name, 0) + sent_bytes(operation, each.bytes, ranks) / 1e6
        columns = ["projections", "gradient of the projections", "BatchNorm", GRADIENT, "probe"]
        assert row[1:] == [f"{sent[name]:.1f}" for name in columns] + [f"{sum(sent.values()):.1f}"]
