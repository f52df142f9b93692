"""An update in micro-batches is that of the whole batch where no sample's output depends on another's."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import micro_batch_on_ranks
import pytest
import torch
from micro_batch_on_ranks import gradients_in_micro_batches, gradients_of_the_whole, small_network
from rank_pool import RankPool
from torch import Tensor, nn

from model.config import LossConfig
from model.loss import contrastive_loss
from ops.bench.counting import peak_bytes
from train.micro_batch import backward_in_micro_batches

IMAGES = 16


def views_of(images: int = IMAGES, side: int = 8, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(2 * images, 3, side, side, dtype=dtype, generator=torch.Generator().manual_seed(1))


def relative_difference(ours: list[Tensor], wanted: list[Tensor]) -> float:
    """Norm of the difference of whole gradients, relative to the norm of the wanted one."""
    difference = torch.cat([(a - b).flatten() for a, b in zip(ours, wanted, strict=True)])
    return float(difference.norm() / torch.cat([b.flatten() for b in wanted]).norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("micro_batch", [1, 7, IMAGES])
def test_gradient_and_loss_are_those_of_the_whole_batch(micro_batch: int, dtype: torch.dtype, tolerance: float) -> None:
    views = views_of(dtype=dtype)
    whole_loss, whole = gradients_of_the_whole(small_network(dtype), views)
    loss, gradients, _ = gradients_in_micro_batches(small_network(dtype), views, micro_batch)
    assert relative_difference(gradients, whole) < tolerance
    assert float(loss) == pytest.approx(float(whole_loss), rel=tolerance)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_two_ranks_in_micro_batches_equal_one_process_with_the_whole_batch(
    micro_batch: int, two_ranks: RankPool
) -> None:
    views = views_of()
    whole_loss, whole = gradients_of_the_whole(small_network(torch.float64), views)
    answers = two_ranks.run(micro_batch_on_ranks.gradients_of_a_rank, views, micro_batch)
    for _, gradients, _ in answers:
        assert relative_difference(gradients, whole) < 1e-10
    assert sum(float(loss) for loss, _, _ in answers) / 2 == pytest.approx(float(whole_loss), rel=1e-10)


def test_gradients_are_reduced_once(two_ranks: RankPool) -> None:
    answers = two_ranks.run(micro_batch_on_ranks.gradients_of_a_rank, views_of(), 2)
    assert [reductions for _, _, reductions in answers] == [1, 1]


def test_projections_come_back_in_the_order_of_the_views() -> None:
    network, views = small_network(torch.float64), views_of()
    wanted_z, wanted_h = network(views)
    accelerator: Any = SimpleNamespace(backward=Tensor.backward, no_sync=lambda _: nullcontext())
    loss_of = partial(contrastive_loss, LossConfig())
    _, z, h = backward_in_micro_batches(accelerator, network, views, 5, loss_of, 1.0, nullcontext)
    assert torch.allclose(z, wanted_z, rtol=1e-10)
    assert torch.allclose(h, wanted_h, rtol=1e-10)


def test_the_scale_multiplies_the_gradient_and_not_the_loss() -> None:
    once = gradients_in_micro_batches(small_network(torch.float64), views_of(), 3)
    twice = gradients_in_micro_batches(small_network(torch.float64), views_of(), 3, scale=2.0)
    assert torch.equal(once[0], twice[0])
    assert relative_difference(twice[1], [2 * gradient for gradient in once[1]]) < 1e-12


def test_dropout_draws_the_same_in_both_passes_and_the_generator_goes_on() -> None:
    class SeesWhatItDrew(nn.Module):
        """A network that notes its projections."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Dropout(0.5), nn.Linear(8, 4)).double()
            self.noted: list[Tensor] = []

        def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
            z = self.inner(views)
            self.noted.append(z.detach())
            return z, z.detach()

    torch.manual_seed(0)
    network = SeesWhatItDrew()
    gradients_in_micro_batches(network, views_of(), 4)
    after = torch.rand(3)
    first, second = network.noted[:4], network.noted[4:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0] - first[0].mean(), first[1] - first[1].mean())
    torch.manual_seed(0)
    network = SeesWhatItDrew()
    for part in first:
        network(torch.zeros(len(part), 3, 8, 8, dtype=torch.float64))
    assert torch.equal(after, torch.rand(3))


def test_running_statistics_are_those_of_the_second_pass_alone() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
            z = self.layers(views)
            return z, z.detach()

    views = views_of(images=6)
    gradients_in_micro_batches(Network(), views, 4)
    batchnorm: Any = layers[1]
    got = batchnorm.running_mean.clone(), batchnorm.running_var.clone(), int(batchnorm.num_batches_tracked)
    batchnorm.reset_running_stats()
    for part in (slice(0, 4), slice(4, 6)):
        layers(torch.cat([views[:6][part], views[6:][part]]))
    assert torch.equal(got[0], batchnorm.running_mean)
    assert torch.equal(got[1], batchnorm.running_var)
    assert got[2] == 2


def test_peak_memory_falls_with_the_micro_batch() -> None:
    views = views_of(images=32, side=16, dtype=torch.float32)
    peaks = []
    for micro_batch in (32, 8, 2):
        network = small_network(torch.float32)
        gradients_in_micro_batches(network, views, micro_batch)
        peaks.append(peak_bytes(partial(gradients_in_micro_batches, network, views, micro_batch)))
    assert peaks[1] < 0.5 * peaks[0]
    assert peaks[2] < 0.6 * peaks[1]
