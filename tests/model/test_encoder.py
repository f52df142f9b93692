from functools import partialmethod
from typing import Any, Literal

import pytest
import torch
import torchvision
from torch import Tensor, nn

from model.config import EncoderConfig, HeadConfig
from model.encoder import build_encoder, count_parameters, is_stochastic, prepare_encoder
from model.errors import ModelError
from model.heads import build_head
from model.loss import nt_xent
from model.simclr import SimCLR
from ops.bench.counting import peak_bytes

VIT = EncoderConfig(name="vit_tiny_patch16_224", arguments={"patch_size": 8, "depth": 2})


@pytest.mark.parametrize(("width", "millions"), [(1.0, 23.508), (2.0, 93.907), (4.0, 375.378)])
def test_wide_resnet50s_have_the_papers_parameters(width: float, millions: float) -> None:
    with torch.device("meta"):
        encoder = build_encoder(EncoderConfig(name="resnet50", width=width), 224)
    assert count_parameters(encoder) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert encoder.num_features == 2048 * width


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours = build_encoder(EncoderConfig(name=name), 224).state_dict()
        theirs = getattr(torchvision.models, name)().state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items() if not n.startswith("fc.")}


@pytest.mark.parametrize(("stem", "side"), [("cifar", 4), ("imagenet", 1)])
def test_the_cifar_stem_keeps_the_resolution(stem: Literal["cifar", "imagenet"], side: int) -> None:
    encoder = build_encoder(EncoderConfig(name="resnet18", stem=stem, width=0.25), 32).eval()
    assert encoder.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 128, side, side)
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, encoder.num_features)


def test_residual_branches_start_at_zero() -> None:
    encoder = build_encoder(EncoderConfig(name="resnet50", width=0.25), 32)
    blocks = [block for i in range(1, 5) for block in getattr(encoder, f"layer{i}")]
    assert all((block.bn3.weight == 0).all() for block in blocks)
    assert all((block.bn1.weight == 1).all() for block in blocks)


@pytest.mark.parametrize("width", [0.25, 0.5, 2.0, 4.0])
def test_every_channel_count_is_multiplied_by_the_width(width: float) -> None:
    with torch.device("meta"):
        plain, scaled = (build_encoder(EncoderConfig(name="resnet50", width=w), 224).state_dict() for w in (1.0, width))
    for name, tensor in plain.items():
        if tensor.ndim == 4:
            incoming = 3 if name == "conv1.weight" else tensor.shape[1] * width
            assert scaled[name].shape[:2] == (tensor.shape[0] * width, incoming), name


def test_a_vision_transformer_of_the_views_size_learns_in_every_parameter() -> None:
    torch.manual_seed(0)
    model = SimCLR(VIT, HeadConfig(dim=8), 32)
    assert model.encoder.num_features == 192
    z, h = model(torch.randn(6, 3, 32, 32))
    assert (z.shape, h.shape) == ((6, 8), (6, 192))
    nt_xent(z, 0.2).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_h_of_models_that_widen_it_last_has_the_length_that_they_say() -> None:
    encoder = build_encoder(EncoderConfig(name="mobilenetv3_small_050"), 32)
    assert encoder.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.num_features)
    assert encoder.train().training


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_with_groupnorm_no_sample_depends_on_another(width: float) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(name="resnet18", stem="cifar", width=width, norm="group")
    encoder = build_encoder(config, 32).double()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    assert all((block.bn2.weight == 0).all() for block in encoder.layer1)
    for block in encoder.layer1:
        nn.init.ones_(block.bn2.weight)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert torch.allclose(encoder(images)[1:2], encoder(images[1:2]), rtol=1e-11)


def test_stochastic_depth_grows_with_depth_from_the_first_stage_on() -> None:
    encoder = build_encoder(EncoderConfig(name="resnet18", width=0.25, arguments={"drop_path_rate": 0.7}), 32)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for i in range(1, 5) for block in getattr(encoder, f"layer{i}")]
    assert rates == pytest.approx([0.7 * i / 7 for i in range(8)])


def test_a_refusal_prints_nothing_besides(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelError, match="at 32 pixels") as caught:
        build_encoder(EncoderConfig(name="crossvit_9_240"), 32)
    assert caplog.records == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changed", ["rope_shift_coords", "patch_drop_rate"])
def test_rotary_models_that_move_or_drop_patches_in_training_draw(changed: str) -> None:
    arguments = {"patch_size": 8, "depth": 1}
    with torch.device("meta"):
        still, moved = (
            build_encoder(EncoderConfig(name="vit_small_patch16_dinov3", arguments=arguments | more), 32)
            for more in ({}, {changed: 0.5})
        )
    assert (is_stochastic(still), is_stochastic(moved)) == (False, True)


@pytest.mark.parametrize(
    ("config", "draws"),
    [
        (EncoderConfig(name="resnet18", width=0.25), False),
        (EncoderConfig(name="resnet18", width=0.25, arguments={"drop_path_rate": 0.1}), True),
        (EncoderConfig(name="resnet18", width=0.25, arguments={"drop_rate": 0.1}), True),
        (VIT, False),
        (EncoderConfig(name=VIT.name, arguments=VIT.arguments | {"proj_drop_rate": 0.1}), True),
    ],
)
def test_what_draws_in_its_forward_is_known(config: EncoderConfig, draws: bool) -> None:
    encoder = build_encoder(config, 32)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # a branch that starts at 0 would not be missed
    assert is_stochastic(encoder) == draws
    images = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encoder(images), encoder(images)) == (not draws)


@pytest.mark.parametrize("config", [EncoderConfig(name="resnet18", stem="cifar", width=0.25), VIT])
def test_activations_computed_again_give_the_same_gradients_in_less_memory(config: EncoderConfig) -> None:
    images, gradients, peaks = torch.randn(16, 3, 32, 32, dtype=torch.float64), [], []
    for again in (False, True):
        torch.manual_seed(0)
        encoder = build_encoder(config, 32).double()
        prepare_encoder(encoder, compiled=False, checkpoint_activations=again)

        def learn(encoder: Any = encoder) -> list[Tensor]:
            return list(torch.autograd.grad(encoder(images).square().sum(), list(encoder.parameters())))

        gradients.append(learn())
        peaks.append(peak_bytes(learn))
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(*gradients, strict=True))
    assert peaks[1] < 0.9 * peaks[0]


def test_an_encoder_that_cannot_compute_activations_again_is_refused() -> None:
    with pytest.raises(ModelError, match="checkpoint_activations = true: this encoder cannot"):
        prepare_encoder(nn.Linear(2, 2), compiled=False, checkpoint_activations=True)


def test_compiling_keeps_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_encoder(EncoderConfig(name="resnet18", width=0.125), 32).eval()
    names, images = list(encoder.state_dict()), torch.randn(2, 3, 32, 32)
    wanted = encoder(images)
    whole = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", partialmethod(whole, backend="aot_eager"))  # inductor takes a minute
    prepare_encoder(encoder, compiled=True, checkpoint_activations=False)
    assert list(encoder.state_dict()) == names
    assert torch.allclose(encoder(images), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_encoder_computes_what_it_did() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="resnet18", stem="cifar", width=0.25), 32)
    images = torch.randn(8, 3, 32, 32)
    wanted = encoder(images).detach()
    prepare_encoder(encoder, compiled=True, checkpoint_activations=False)
    assert torch.allclose(encoder(images), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EncoderConfig(name="resnet5"), "encoder.name = resnet5: neither one of resnet18"),
        (EncoderConfig(name="vit_tiny_patch16_224", width=2.0), "need one of resnet18"),
        (EncoderConfig(name="efficientnet_b0", stem="cifar"), "need one of resnet18"),
        (EncoderConfig(name="efficientnet_b0", norm="group"), "need one of resnet18"),
        (EncoderConfig(width=0.001), "encoder.width = 0.001: leaves no channels"),
        (EncoderConfig(name="vit_tiny_patch16_22"), r"did you mean vit_tiny_patch16_224\?"),
        (EncoderConfig(arguments={"channels": 3}), "can be set, not channels"),
        (EncoderConfig(arguments={"cardinality": 32}), "can be set, not cardinality"),
        (EncoderConfig(arguments={"drop_pat": 1}), "can be set, not drop_pat"),
        (EncoderConfig(arguments={"drop_path_rate": "x"}), "encoder.arguments = .*TypeError"),
        (EncoderConfig(name=VIT.name, arguments={"act_layer": "zz"}), "at 32 pixels: KeyError 'zz'"),
        (EncoderConfig(name=VIT.name, arguments={"num_heads": 0}), "at 32 pixels: ZeroDivisionError"),
        (EncoderConfig(name="resnet26", arguments={"pretrained": True}), "pretrained cannot be set"),
        (EncoderConfig(name="resnet26", arguments={"global_pool": ""}), "not a vector for each"),
        (EncoderConfig(name=VIT.name, arguments={"patch": 1}), "encoder.arguments = .*unexpected keyword .*'patch'"),
        (EncoderConfig(name=VIT.name, arguments={"img_size": 64}), "at 32 pixels: .*64"),
    ],
)
def test_an_impossible_encoder_is_refused(config: EncoderConfig, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_encoder(config, 32)


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (HeadConfig(dim=16), ["32-32", "norm", "relu", "32-16", "norm"]),
        (HeadConfig(dim=16, layers=3), ["32-32", "norm", "relu", "32-32", "norm", "relu", "32-16", "norm"]),
        (HeadConfig(dim=16, hidden=48), ["32-48", "norm", "relu", "48-16", "norm"]),
        (HeadConfig(dim=16, layers=3, hidden=48), ["32-48", "norm", "relu", "48-48", "norm", "relu", "48-16", "norm"]),
        (HeadConfig(dim=16, kind="linear", hidden=48), ["32-16", "norm"]),
        (HeadConfig(dim=16, batchnorm=False), ["32-32+bias", "relu", "32-16+bias"]),
        (HeadConfig(dim=16, kind="linear"), ["32-16", "norm"]),
        (HeadConfig(dim=16, kind="linear", batchnorm=False), ["32-16+bias"]),
        (HeadConfig(kind="none"), []),
    ],
)
def test_heads_are_made_of_the_layers_that_were_asked_for(config: HeadConfig, layers: list[str]) -> None:
    def name(module: nn.Module) -> str:
        if isinstance(module, nn.Linear):
            bias = "+bias" if module.bias is not None else ""
            return f"{module.in_features}-{module.out_features}{bias}"
        return "norm" if isinstance(module, nn.BatchNorm1d) else "relu"

    assert [name(module) for module in build_head(config, 32)] == layers


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
        models.append(SimCLR(EncoderConfig(name="resnet18", width=0.125), HeadConfig(dim=8), 32))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    z, h = models[0](torch.randn(4, 3, 32, 32))
    assert (z.shape, h.shape) == ((4, 8), (4, 64))
    assert not h.requires_grad
