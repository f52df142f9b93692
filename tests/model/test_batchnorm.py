import copy
from typing import Any

import batchnorm_on_ranks
import numpy as np
import pytest
import reference
import timm
import torch
from rank_pool import RankPool
from timm.layers import BatchNormAct2d
from torch import nn

from model.batchnorm import GlobalBatchNorm, convert, with_global_batchnorm, with_plain_batchnorm

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3, 5)])
def test_statistics_and_gradients_over_ranks_are_those_of_one_process(
    world_size: int, shape: tuple[int, ...], steps: int, two_ranks: RankPool, four_ranks: RankPool
) -> None:
    torch.manual_seed(0)
    x, upstream = torch.randn(*shape, dtype=torch.float64) * 3 + 100, torch.randn(*shape, dtype=torch.float64)
    module = (nn.BatchNorm1d(6) if len(shape) == 2 else nn.BatchNorm2d(6)).double()
    nn.init.normal_(module.weight)
    pool = {2: two_ranks, 4: four_ranks}[world_size]
    answers = pool.run(batchnorm_on_ranks.output_and_gradient, copy.deepcopy(module), x, upstream, steps)

    whole = x.clone().requires_grad_()
    for _ in range(steps):
        y = module(whole)
    (y * upstream).sum().backward()
    assert whole.grad is not None
    assert torch.allclose(torch.cat([a[0] for a in answers]), y, rtol=1e-9, atol=1e-10)
    assert torch.allclose(torch.cat([a[1] for a in answers]), whole.grad, rtol=1e-8, atol=1e-11)
    for _, _, buffers in answers:
        for name, buffer in module.named_buffers():
            assert torch.allclose(buffers[name], buffer, rtol=1e-10)
            assert torch.equal(buffers[name], answers[0][2][name])  # on all ranks the same bits


def test_normalisation_is_the_definitions() -> None:
    x = np.random.default_rng(0).normal(5, 2, (6, 3, 4, 4))
    y = GlobalBatchNorm(3, eps=1e-5, momentum=0.1, affine=False).double()(torch.from_numpy(x))
    assert np.abs(y.numpy() - reference.batchnorm(x, 1e-5)).max() < 1e-10


ENCODERS: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "efficientnet_b0": {"drop_rate": 0.0, "drop_path_rate": 0.0},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2},
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_converted_encoder_computes_what_the_unconverted_one_does(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **ENCODERS[name]).double().train(training)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)  # the last of each block starts at 0, which would hide the block
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    ours = convert(copy.deepcopy(model), CPU)
    assert any(isinstance(module, GlobalBatchNorm) for module in ours.modules()) == (not name.startswith("vit"))
    assert torch.allclose(ours(images), model(images), rtol=1e-8, atol=1e-9)
    assert ours.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_conversion_back_gives_the_classes_the_names_and_the_outputs_that_were(name: str, device: torch.device) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval()
    images = torch.randn(2, 3, 32, 32)
    wanted, classes = model(images), [type(module) for module in model.modules()]
    changed = convert(copy.deepcopy(model), device)
    assert [type(module) for module in changed.modules()] != classes
    assert not any(type(module) is nn.BatchNorm2d for module in changed.modules())
    back: Any = with_plain_batchnorm(changed)
    assert [type(module) for module in back.modules()] == classes
    assert back.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(back(images), wanted)


def test_a_converted_encoder_has_the_unconverted_ones_gradients() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet50", num_classes=0).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    ours = convert(copy.deepcopy(model), CPU)
    for network in (model, ours):
        network(images).square().sum().backward()
    for theirs, mine in zip(model.parameters(), ours.parameters(), strict=True):
        assert torch.linalg.norm(theirs.grad - mine.grad) < 1e-8 * torch.linalg.norm(theirs.grad)


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d])
def test_conversion_there_and_back_keeps_every_setting(
    kind: Any, track: bool, affine: bool, device: torch.device
) -> None:
    torch.manual_seed(0)
    fused = {"drop_layer": nn.Dropout, "act_layer": nn.SiLU} if kind is BatchNormAct2d else {}
    plain = kind(4, eps=1e-3, momentum=0.3, affine=affine, track_running_stats=track, **fused).eval()
    x = torch.randn(5, 4, *([] if kind is nn.BatchNorm1d else [3, 3]))
    plain.train()(x)
    plain.eval()
    there: Any = convert(nn.Sequential(plain), device)
    back: Any = with_plain_batchnorm(nn.Sequential(there[0]))
    assert type(there[0]) is not kind
    assert type(back[0]) is kind
    for module in (there[0], back[0]):
        settings = (module.eps, module.momentum, module.affine, module.track_running_stats, module.training)
        assert settings == (1e-3, 0.3, affine, track, False)
        assert module.weight is plain.weight
        assert module.state_dict().keys() == plain.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(module.buffers(), plain.buffers(), strict=True))
        assert not fused or (module.drop is plain.drop and module.act is plain.act)
    assert torch.equal(back(x), plain(x))


def test_a_batchnorm_in_two_places_stays_one() -> None:
    shared = nn.BatchNorm1d(3)
    changed: Any = convert(nn.Sequential(shared, nn.Linear(3, 3), shared, nn.Sequential(shared)), CPU)
    assert isinstance(changed[0], GlobalBatchNorm)
    assert changed[0] is changed[2]
    assert changed[0] is changed[3][0]


def test_a_rank_may_evaluate_alone_without_running_statistics(two_ranks: RankPool) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for part, y in zip(x.chunk(2), two_ranks.run(batchnorm_on_ranks.evaluated_without_statistics, x), strict=True):
        assert torch.equal(y, nn.BatchNorm1d(3, affine=False, track_running_stats=False)(part))


def test_what_is_frozen_or_without_scale_stays_so() -> None:
    head = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False))
    head[1].bias.requires_grad_(False)
    changed: Any = convert(copy.deepcopy(head), CPU)
    assert not changed[1].bias.requires_grad
    assert changed[2].weight is None
    back: Any = with_plain_batchnorm(changed)
    assert type(back[1]) is nn.BatchNorm1d
    assert not back[1].bias.requires_grad
    assert back[2].weight is None


def test_one_process_keeps_torchs_batchnorm() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    assert with_global_batchnorm(model, CPU) is model
    assert type(model[0]) is nn.BatchNorm2d


def test_a_single_value_per_channel_is_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        GlobalBatchNorm(3, eps=1e-5, momentum=0.1, affine=True)(torch.zeros(1, 3))


def test_a_compiled_network_on_two_ranks_computes_the_same_without_a_graph_break(two_ranks: RankPool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
    ).double()
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    for eager, compiled, breaks in two_ranks.run(batchnorm_on_ranks.compiled_and_not, module, x):
        assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(eager, compiled, strict=True))
        assert breaks == 0
