import copy

import numpy as np
import pytest
import rank_functions
import reference
import timm
import torch
from rank_pool import RankPool
from torch import nn

from model.batchnorm import GlobalBatchNorm, with_global_batchnorm


def converted(module: nn.Module) -> nn.Module:
    """The conversion that `with_global_batchnorm` makes on several ranks."""
    from model.batchnorm import _convert

    return _convert(module)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3, 5)])
def test_statistics_and_gradients_over_ranks_are_those_of_one_process(
    world_size: int, shape: tuple[int, ...], two_ranks: RankPool, four_ranks: RankPool
) -> None:
    torch.manual_seed(0)
    x, upstream = torch.randn(*shape, dtype=torch.float64) * 3 + 100, torch.randn(*shape, dtype=torch.float64)
    module = (nn.BatchNorm1d(6) if len(shape) == 2 else nn.BatchNorm2d(6)).double()
    nn.init.normal_(module.weight)
    pool = {2: two_ranks, 4: four_ranks}[world_size]
    answers = pool.run(rank_functions.batchnorm, copy.deepcopy(module), x, upstream)

    whole = x.clone().requires_grad_()
    y = module(whole)
    (y * upstream).sum().backward()
    assert whole.grad is not None
    assert torch.allclose(torch.cat([a[0] for a in answers]), y, rtol=1e-9, atol=1e-10)
    assert torch.allclose(torch.cat([a[1] for a in answers]), whole.grad, rtol=1e-8, atol=1e-11)
    for _, _, buffers in answers:
        for name, buffer in module.named_buffers():
            assert torch.allclose(buffers[name], buffer, rtol=1e-10)


def test_normalisation_is_the_definitions() -> None:
    x = np.random.default_rng(0).normal(5, 2, (6, 3, 4, 4))
    y = GlobalBatchNorm(3, eps=1e-5, momentum=0.1, affine=False).double()(torch.from_numpy(x))
    assert np.abs(y.numpy() - reference.batchnorm(x, 1e-5)).max() < 1e-10


@pytest.mark.parametrize(("name", "training"), [("resnet18", True), ("efficientnet_b0", True), ("resnet18", False)])
def test_a_converted_model_computes_what_the_unconverted_one_does(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, drop_rate=0.0, drop_path_rate=0.0).double().train(training)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    ours = converted(copy.deepcopy(model))
    assert any(isinstance(module, GlobalBatchNorm) for module in ours.modules())
    assert torch.allclose(ours(images), model(images), rtol=1e-8, atol=1e-9)
    assert ours.state_dict().keys() == model.state_dict().keys()


def test_one_process_keeps_torchs_batchnorm() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    assert with_global_batchnorm(model, torch.device("cpu")) is model
    assert type(model[0]) is nn.BatchNorm2d
