from typing import Literal

import pytest
import torch
import torchvision
from torch import nn

from model.config import EncoderConfig, HeadConfig
from model.encoder import build_encoder, count_parameters
from model.errors import ModelError
from model.heads import build_head
from model.simclr import SimCLR


@pytest.mark.parametrize(("width", "millions"), [(1.0, 23.508), (2.0, 93.907), (4.0, 375.378)])
def test_wide_resnet50s_have_the_papers_parameters(width: float, millions: float) -> None:
    with torch.device("meta"):
        encoder = build_encoder(EncoderConfig(name="resnet50", width=width))
    assert count_parameters(encoder) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert encoder.num_features == 2048 * width


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours = build_encoder(EncoderConfig(name=name)).state_dict()
        theirs = getattr(torchvision.models, name)().state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items() if not n.startswith("fc.")}


@pytest.mark.parametrize(("stem", "side"), [("cifar", 4), ("imagenet", 1)])
def test_the_cifar_stem_keeps_the_resolution(stem: Literal["cifar", "imagenet"], side: int) -> None:
    encoder = build_encoder(EncoderConfig(name="resnet18", stem=stem, width=0.25)).eval()
    assert encoder.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 128, side, side)
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, encoder.num_features)


def test_residual_branches_start_at_zero() -> None:
    encoder = build_encoder(EncoderConfig(name="resnet50", width=0.25))
    blocks = [block for i in range(1, 5) for block in getattr(encoder, f"layer{i}")]
    assert all((block.bn3.weight == 0).all() for block in blocks)
    assert all((block.bn1.weight == 1).all() for block in blocks)


def test_any_timm_model_can_be_the_encoder() -> None:
    encoder = build_encoder(EncoderConfig(name="vit_tiny_patch16_224"))
    assert encoder.num_features == 192


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EncoderConfig(name="resnet5"), "encoder.name = resnet5: neither one of resnet18"),
        (EncoderConfig(name="vit_tiny_patch16_224", width=2.0), "need one of resnet18"),
        (EncoderConfig(name="efficientnet_b0", stem="cifar"), "need one of resnet18"),
        (EncoderConfig(width=0.001), "encoder.width = 0.001: leaves no channels"),
    ],
)
def test_an_impossible_encoder_is_refused(config: EncoderConfig, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_encoder(config)


@pytest.mark.parametrize("layers", [2, 3])
def test_the_head_ends_in_a_batchnorm_without_bias(layers: Literal[2, 3]) -> None:
    head = build_head(HeadConfig(dim=16, layers=layers), 32)
    linear = [module for module in head if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(32, 32)] * (layers - 1) + [(32, 16)]
    assert not any("bias" in name for m in linear for name, _ in m.named_parameters())
    trained = [name for name, parameter in head.named_parameters() if parameter.requires_grad]
    assert f"{len(head) - 1}.weight" in trained
    assert f"{len(head) - 1}.bias" not in trained


def test_a_model_is_the_same_for_the_same_seed() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(SimCLR(EncoderConfig(name="resnet18", width=0.125), HeadConfig(dim=8)))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert models[0](torch.randn(4, 3, 32, 32)).shape == (4, 8)
