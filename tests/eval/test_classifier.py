import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_training import CPU, MeanColour, accelerator, classifier, recipe, training
from torch import Tensor, nn

from eval.classifier import Learner, build_optimizer
from eval.classifier_run import prepare
from pipelines.loader import Batch, Share, training_batches
from train.lars import LARS


def batches(shards: Path, steps: int, **changes: Any) -> list[Batch]:
    one = training(shards, **changes)
    share = Share(global_batch=one.recipe.batch, seed=0, last_step=steps)
    return list(training_batches(one.split, one.data, one.recipe.views, share, CPU, views_per_image=1))


def learner(**changes: Any) -> Learner:
    how = recipe(**changes)
    return prepare(how, classifier(how), accelerator())


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_frozen_encoder_stays_as_it_is_to_the_last_bit_with_its_statistics(shards: Path, precision: str) -> None:
    ours = learner(frozen=True, precision=precision)
    before = state(ours.classifier)
    for batch in batches(shards, 3):
        ours.train_step(batch)
    after = state(ours.classifier)
    assert len([name for name in before if "running_mean" in name]) > 10
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor) == name.startswith("encoder."), name


def test_an_encoder_that_is_not_frozen_learns_with_its_statistics(shards: Path) -> None:
    ours = learner()
    before = state(ours.classifier)
    for batch in batches(shards, 3):  # the first update is the linear layer's alone, which starts at zero
        ours.train_step(batch)
    after = state(ours.classifier)
    for name in ("encoder.conv1.weight", "encoder.bn1.bias", "encoder.bn1.running_mean", "linear.bias"):
        assert not torch.equal(after[name], before[name]), name


def test_updates_are_those_of_nesterov_momentum_written_out_in_float64(shards: Path) -> None:
    how = recipe(steps=8, warmup_steps=2, weight_decay=0.1)
    ours = prepare(how, classifier(how, MeanColour()), accelerator())
    weights = [np.zeros((4, 3)), np.zeros(4)]
    momenta = [np.zeros((4, 3)), np.zeros(4)]
    for batch in batches(shards, 8):
        h = 10 * ours.views(batch.canvas, batch.plan).mean(dim=(2, 3)).double().numpy()
        w, b = weights
        p = np.exp(h @ w.T + b)
        p /= p.sum(axis=1, keepdims=True)
        error = (p - np.eye(4)[batch.label]) / 16
        gradients = [error.T @ h + 0.1 * w, error.sum(axis=0)]
        momenta = [0.9 * momentum + gradient for momentum, gradient in zip(momenta, gradients, strict=True)]
        step = batch.step
        rate = 0.1 * (step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 6)))
        weights = [w - rate * (g + 0.9 * m) for w, g, m in zip(weights, gradients, momenta, strict=True)]
        loss = -np.log(p[np.arange(16), batch.label]).mean()
        assert ours.train_step(batch).item() == pytest.approx(loss, abs=1e-5)
    w, b = weights
    np.testing.assert_allclose(ours.classifier.linear.weight.detach().numpy(), w, atol=1e-5)
    np.testing.assert_allclose(ours.classifier.linear.bias.detach().numpy(), b, atol=1e-5)


def test_the_first_loss_is_that_of_four_equal_classes(shards: Path) -> None:
    (batch,) = batches(shards, 1)
    assert learner().train_step(batch).item() == pytest.approx(math.log(4))


def test_views_are_normalised_as_the_description_says() -> None:
    how = recipe()
    network = classifier(how, MeanColour(), mean=0.5, std=0.25)
    nn.init.eye_(network.linear.weight)
    logits = network(torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1).expand(2, 3, 16, 16))
    torch.testing.assert_close(logits, torch.tensor([[20.0, 0.0, -10.0, 0.0]]).expand(2, 4))


def test_logits_are_float32_and_exact_whatever_the_encoder_computes_in() -> None:
    how = recipe(precision="bf16")
    network = classifier(how, MeanColour())
    nn.init.constant_(network.linear.weight, 1.001)
    logits = network(torch.full((1, 3, 16, 16), 0.1))
    assert logits.dtype == torch.float32
    assert logits[0, 0].item() == pytest.approx(3.003, abs=1e-5)


@pytest.mark.parametrize("momentum", [0.02, None])
def test_batchnorm_takes_as_much_of_a_batch_as_the_recipe_says(momentum: float | None) -> None:
    network = classifier(recipe(batchnorm_momentum=momentum))
    assert network.encoder.bn1.momentum == (momentum or 0.1)


def test_biases_and_norms_do_not_decay_and_lars_leaves_the_linear_layer() -> None:
    for name in ("sgd", "lars"):
        how = recipe(optimizer=name, weight_decay=0.5)
        network = classifier(how)
        optimizer = build_optimizer(how, network)
        decaying, spared = optimizer.param_groups
        wanted: set[Tensor] = {parameter for parameter in network.parameters() if parameter.ndim == 1}
        if name == "lars":
            assert isinstance(optimizer, LARS)
            assert (decaying["adapt"], spared["adapt"]) == (True, False)
            wanted.add(network.linear.weight)
        assert (decaying["weight_decay"], spared["weight_decay"]) == (0.5, 0)
        assert set(spared["params"]) == wanted
        assert set(decaying["params"]) == set(network.parameters()) - wanted
