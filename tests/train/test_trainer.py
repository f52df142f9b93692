"""Single updates of a whole trainer, made as train/pretrain.py makes it."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from model.config import EncoderConfig, HeadConfig
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import open_split
from train.build import build
from train.config import OptimizerConfig, PretrainConfig, ProbeConfig
from train.distributed import make_accelerator
from train.log_line import LogLine, log_line
from train.trainer import Trainer

IMAGES = 8


@pytest.fixture
def config(shards: Path) -> PretrainConfig:
    return PretrainConfig(
        data=DataConfig(dir=str(shards), canvas=32),
        views=ViewsConfig(size=32),
        encoder=EncoderConfig(name="resnet18", stem="cifar", width=0.125),
        head=HeadConfig(dim=16),
        optimizer=OptimizerConfig(base_lr=2.0, weight_decay=1e-4),
        global_batch=IMAGES,
        precision="fp32",
        device="cpu",
        cpu_threads=1,
    )


@pytest.fixture
def batches(config: PretrainConfig) -> list[Batch]:
    share = Share(global_batch=IMAGES, seed=0, first_step=20, last_step=24)  # the rate of the first update is 0
    split = open_split(config.data.dir, "train")
    return list(training_batches(split, config.data, config.views, share, torch.device("cpu")))


def trainer_of(config: PretrainConfig, scaler: Any = None) -> tuple[Trainer, Any]:
    AcceleratorState._reset_state(reset_partial_state=True)  # a process is meant to have one precision only
    accelerator = make_accelerator(config)
    accelerator.scaler = scaler
    return build(config, open_split(config.data.dir, "train"), accelerator)


def weights_after(config: PretrainConfig, batches: Sequence[Batch]) -> dict[str, Tensor]:
    trainer, model = trainer_of(config)
    for batch in batches:
        trainer.train_step(batch)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in wanted.items())


def test_the_encoder_is_bitwise_the_same_with_the_online_probe_and_without_it(
    config: PretrainConfig, batches: list[Batch]
) -> None:
    trainer, model = trainer_of(config)
    assert trainer.probe is not None
    for batch in batches:
        trainer.train_step(batch)
    assert float(trainer.probe.state()["weight"].abs().sum()) > 0  # it has learnt
    without = weights_after(replace(config, probe=ProbeConfig(enabled=False)), batches)
    assert_equal(dict(model.state_dict()), without)


def test_computing_activations_again_changes_neither_weights_nor_running_statistics(
    config: PretrainConfig, batches: list[Batch]
) -> None:
    assert_equal(weights_after(replace(config, checkpoint_activations=True), batches), weights_after(config, batches))


@pytest.mark.parametrize("micro_batch", [1, 3, IMAGES])
def test_an_update_in_micro_batches_is_that_of_the_whole_batch_with_groupnorm(
    micro_batch: int, config: PretrainConfig, batches: list[Batch]
) -> None:
    config = replace(config, encoder=replace(config.encoder, norm="group"), head=replace(config.head, batchnorm=False))
    before = weights_after(config, [])
    whole = weights_after(config, batches[:1])
    parts = weights_after(replace(config, micro_batch=micro_batch), batches[:1])
    moved = torch.cat([(whole[name] - before[name]).flatten() for name in whole])
    difference = torch.cat([(whole[name] - parts[name]).flatten() for name in whole])
    assert difference.norm() < 2e-4 * moved.norm()  # of the update, which is a thousandth of the weights' float32


def test_micro_batches_that_are_the_whole_batch_change_nothing_with_batchnorm(
    config: PretrainConfig, batches: list[Batch]
) -> None:
    ours, wanted = weights_after(replace(config, micro_batch=IMAGES), batches[:2]), weights_after(config, batches[:2])
    assert all(torch.allclose(ours[name], tensor, rtol=1e-4, atol=1e-5) for name, tensor in wanted.items())


def test_dropout_draws_by_seed_and_step_and_so_a_resumed_run_draws_the_same(
    config: PretrainConfig, batches: list[Batch]
) -> None:
    config = replace(config, encoder=replace(config.encoder, arguments={"drop_path_rate": 0.5}))
    trainer, _ = trainer_of(config)
    assert trainer.draws_in_forward
    first = trainer.train_step(batches[0])
    again, _ = trainer_of(config)
    torch.rand(5)
    assert torch.equal(first.z, again.train_step(batches[0]).z)
    other, _ = trainer_of(replace(config, seed=1))
    assert not torch.equal(first.z, other.train_step(batches[0]).z)


def overflow_at(trainer: Trainer, step: int) -> None:
    """Make a gradient infinite in one step, counted from 0."""
    parameter = trainer.optimizer.param_groups[0]["params"][0]
    steps = itertools.count()
    parameter.register_hook(lambda gradient: gradient * torch.inf if next(steps) == step else gradient)


def test_an_overflow_leaves_weights_momentum_and_running_statistics_and_is_counted(
    config: PretrainConfig, batches: list[Batch]
) -> None:
    trainer, model = trainer_of(config, torch.amp.GradScaler("cpu", init_scale=1024.0))
    overflow_at(trainer, step=1)
    trainer.train_step(batches[0])
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    momenta = [state["momentum"].clone() for state in trainer.optimizer.optimizer.state.values()]
    assert momenta
    trainer.train_step(batches[1])
    assert_equal(dict(model.state_dict()), weights)
    for state, momentum in zip(trainer.optimizer.optimizer.state.values(), momenta, strict=True):
        assert torch.equal(state["momentum"], momentum)
    assert float(trainer.skipped_steps) == 1
    assert trainer.accelerator.scaler.get_scale() == 512
    trainer.train_step(batches[2])
    assert not torch.equal(model.state_dict()["encoder.conv1.weight"], weights["encoder.conv1.weight"])
    assert float(trainer.skipped_steps) == 1


def test_the_gradient_scale_does_not_change_the_update(config: PretrainConfig, batches: list[Batch]) -> None:
    trainer, model = trainer_of(config, torch.amp.GradScaler("cpu", init_scale=1024.0))
    trainer.train_step(batches[0])
    wanted = weights_after(config, batches[:1])
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor.double(), wanted[name].double(), rtol=1e-5, atol=1e-7), name


def test_a_log_line_holds_the_health_of_the_batch_and_the_probes_accuracy(
    config: PretrainConfig, batches: list[Batch]
) -> None:
    trainer, _ = trainer_of(config)
    outcome = trainer.train_step(batches[0], examine=True)
    line: LogLine = log_line(trainer, batches[0], outcome, {}, 100.0)
    assert line.step == batches[0].step + 1
    assert line.loss == pytest.approx(float(outcome.loss))
    assert line.gradient_norm > 0
    assert line.largest_trust_ratio is not None
    assert line.largest_trust_ratio > 0
    assert line.probe_top1 is not None
    assert 0 <= line.probe_top1 <= 1
    assert line.skipped_steps == 0
    assert line.health["effective_rank"] > 1


def test_the_learning_rate_peaks_at_that_of_the_global_batch(config: PretrainConfig) -> None:
    trainer, _ = trainer_of(config)
    rates = [trainer.learning_rate(step) for step in range(trainer.total_steps)]
    assert max(rates) == pytest.approx(config.optimizer.base_lr * IMAGES / 256, rel=1e-6)
