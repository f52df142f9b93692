from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import reference
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ops.bench.counting import dispatches
from train.checkpoint import optimizer_tensors, restore_optimizer
from train.lars import LARS
from train.optimizer import set_learning_rate

SHAPES = [(4, 3), (6, 3, 3, 3), (5,), (1, 7), (2, 2, 1, 1)]
BOTH_WAYS = pytest.mark.parametrize("flat", [False, True])


class Net(nn.Module):
    """Weights of several shapes, one of them channels_last, one of them zero; biases in a group of their own."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(shape, dtype=dtype, generator=generator) for shape in SHAPES]
        weights[1] = weights[1].contiguous(memory_format=torch.channels_last)
        weights[3].zero_()
        self.weights = nn.ParameterList(weights)

    def optimizer(self, flat: bool, **settings: Any) -> LARS:
        decayed = [weight for weight in self.weights if weight.ndim > 1]
        exempt = [weight for weight in self.weights if weight.ndim == 1]
        groups = [{"params": decayed}, {"params": exempt, "weight_decay": 0.0, "adapt": False}]
        return LARS(groups, lr=0.0, flat=flat, **settings)

    def take_gradients(self, step: int) -> None:
        generator = torch.Generator().manual_seed(100 + step)
        for number, weight in enumerate(self.weights):
            gradient = torch.randn(weight.shape, dtype=weight.dtype, generator=generator)
            weight.grad = torch.zeros_like(weight).copy_(gradient * (step != 4 or number != 0))  # zero once


def rate(step: int) -> float:
    return float(0.5 + 3 * np.sin(step))


def run(net: Net, optimizer: LARS, steps: Sequence[int]) -> None:
    for step in steps:
        net.take_gradients(step)
        set_learning_rate(optimizer, rate(step))
        optimizer.step()


def copies(tensors: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def momenta(optimizer: LARS) -> list[Tensor]:
    return [optimizer.state[weight]["momentum"] for group in optimizer.param_groups for weight in group["params"]]


@BOTH_WAYS
@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 0.1])
def test_ten_updates_under_a_changing_rate_are_the_references(weight_decay: float, flat: bool) -> None:
    net = Net()
    wanted = [(weight.detach().numpy().copy(), np.zeros(weight.shape)) for weight in net.weights]
    optimizer = net.optimizer(flat, weight_decay=weight_decay)
    for step in range(10):
        net.take_gradients(step)
        gradients = [weight.grad.numpy().copy() for weight in net.weights if weight.grad is not None]
        set_learning_rate(optimizer, rate(step))
        optimizer.step()
        for number, ((w, v), g) in enumerate(zip(wanted, gradients, strict=True)):
            exempt = w.ndim == 1
            wanted[number] = reference.lars(
                w, v, g, lr=rate(step), momentum=0.9, weight_decay=0 if exempt else weight_decay, adapt=not exempt
            )
        for weight, (w, _) in zip(net.weights, wanted, strict=True):
            assert np.abs(weight.detach().numpy() - w).max() < 1e-12


@BOTH_WAYS
@pytest.mark.parametrize(("weight", "gradient"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_zero_norm_means_no_adaptation(weight: float, gradient: float, flat: bool) -> None:
    parameter = nn.Parameter(torch.full((3, 2), weight))
    parameter.grad = torch.full((3, 2), gradient)
    LARS([parameter], lr=0.1, flat=flat).step()
    assert torch.allclose(parameter, torch.full((3, 2), weight - 0.1 * gradient))


@BOTH_WAYS
def test_a_parameter_without_gradient_is_left_alone_and_goes_on_later(flat: bool) -> None:
    net, alone = Net(), Net()
    optimizer, other = net.optimizer(flat, weight_decay=0.1), alone.optimizer(False, weight_decay=0.1)
    for step in range(4):
        for one in (net, alone):
            one.take_gradients(step)
            if step == 1:
                one.weights[0].grad = None
        before = net.weights[0].detach().clone()
        for each in (optimizer, other):
            set_learning_rate(each, 0.5)
            each.step()
        assert torch.equal(net.weights[0], before) == (step == 1)
    assert all(torch.allclose(a, b, rtol=1e-13) for a, b in zip(net.weights, alone.weights, strict=True))


@BOTH_WAYS
def test_momentum_has_the_layout_of_its_weight(flat: bool) -> None:
    net = Net()
    optimizer = net.optimizer(flat)
    run(net, optimizer, [0])
    assert [tensor.stride() for tensor in momenta(optimizer)] == [
        weight.stride() for group in optimizer.param_groups for weight in group["params"]
    ]


@BOTH_WAYS
@pytest.mark.parametrize("through", ["checkpoint", "state_dict"])
def test_an_optimizer_restored_in_the_middle_goes_on_as_if_it_had_never_stopped(through: str, flat: bool) -> None:
    whole, half = Net(torch.float32), Net(torch.float32)
    run(whole, whole.optimizer(flat, weight_decay=0.1), range(6))
    first = half.optimizer(flat, weight_decay=0.1)
    run(half, first, range(3))
    second = half.optimizer(flat, weight_decay=0.1)
    if through == "checkpoint":
        tensors = {name: tensor.contiguous().clone() for name, tensor in optimizer_tensors(first, half).items()}
        restore_optimizer(second, half, tensors)
    else:
        second.load_state_dict(first.state_dict())
    run(half, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.weights, half.weights, strict=True))


@BOTH_WAYS
@pytest.mark.parametrize("unscaled_before", [False, True])
def test_an_overflow_is_skipped_and_the_next_update_is_as_if_it_had_not_been(unscaled_before: bool, flat: bool) -> None:
    net, undisturbed = Net(torch.float32), Net(torch.float32)
    optimizer, other = (one.optimizer(flat, weight_decay=0.1) for one in (net, undisturbed))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))  # makes its state
    for step in (1, 2, 3):
        net.take_gradients(step)
        for weight in net.weights:
            assert weight.grad is not None
            weight.grad.mul_(scaler.get_scale())
        if step == 2:
            net.weights[1].grad[0, 0] = torch.inf
        before = copies(net.weights), copies(momenta(optimizer)) if step > 1 else []
        set_learning_rate(optimizer, rate(step))
        if unscaled_before:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if step == 2:
            after = copies(net.weights), copies(momenta(optimizer))
            assert all(torch.equal(a, b) for kind in range(2) for a, b in zip(before[kind], after[kind], strict=True))
    assert scaler.get_scale() == 512
    run(undisturbed, other, [1, 3])
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(net.weights, undisturbed.weights, strict=True))


@BOTH_WAYS
def test_the_largest_trust_ratio_is_that_of_the_last_update(flat: bool) -> None:
    net = Net()
    optimizer = net.optimizer(flat)
    assert optimizer.largest_trust() is None
    net.take_gradients(0)
    norms = [(w.detach().norm(), w.grad.norm()) for w in net.weights if w.ndim > 1 and w.grad is not None]
    wanted = max(0.001 * float(of_weight / of_gradient) for of_weight, of_gradient in norms)
    optimizer.step()
    largest = optimizer.largest_trust()
    assert largest is not None
    assert float(largest) == pytest.approx(wanted)


@BOTH_WAYS
def test_nothing_waits_for_the_device(flat: bool) -> None:
    with FakeTensorMode():
        net = Net(torch.float32)
        optimizer: Any = net.optimizer(flat, weight_decay=0.1)
        optimizer.found_inf, optimizer.grad_scale = torch.zeros(1), torch.ones(())
        for _ in range(2):
            for weight in net.weights:
                weight.grad = torch.empty_like(weight)
            optimizer.step()
        assert optimizer.largest_trust().shape == ()


def test_all_weights_of_resnet50_take_a_step_in_few_operators() -> None:
    model = timm.create_model("resnet50", num_classes=0)
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": weights, "weight_decay": 1e-6}, {"params": others, "adapt": False}]
    optimizer = LARS(groups, lr=0.1, flat=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert dispatches(optimizer.step) <= 30


@BOTH_WAYS
def test_weights_of_both_types_share_a_group(flat: bool) -> None:
    alone = [nn.Parameter(torch.ones(3, 2, dtype=dtype)) for dtype in (torch.float32, torch.float64)]
    together = [nn.Parameter(weight.detach().clone()) for weight in alone]
    optimizers = [LARS(together, lr=0.1, flat=flat), *(LARS([weight], lr=0.1, flat=False) for weight in alone)]
    for weight in (*alone, *together):
        weight.grad = torch.full_like(weight, 2.0)
    for optimizer in optimizers:
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert [tensor.dtype for tensor in momenta(optimizers[0])] == [torch.float32, torch.float64]


def test_half_precision_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"LARS: a parameter is torch\.float16; keep weights in float32"):
        LARS([nn.Parameter(torch.zeros(2, 2, dtype=torch.float16))], lr=0.1)
