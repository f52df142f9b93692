"""What each library makes of an export, read and run as its model card tells."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from PIL import Image
from random_encoders import MEAN, STD, save_random_encoder
from safetensors.torch import load_file, save_file

from model.config import EncoderConfig
from model.description import EncoderDescription
from model.encoder import build_encoder
from model.export import load_encoder, main
from model.export_directory import write_record
from model.export_source import read_source
from model.formats.all_formats import FORMATS
from model.formats.format import Place
from model.formats.huggingface_format import image_processor, their_name
from model.formats.timm_format import timm_config
from pipelines.augment import EvalView

RESNET18 = EncoderConfig(name="resnet18")
NARROW = EncoderConfig(name="resnet50", width=0.125)
CIFAR = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)
GROUP_NORM = EncoderConfig(name="resnet18", width=0.125, norm="group")
VIT = EncoderConfig(name="vit_tiny_patch16_224", arguments={"patch_size": 8, "depth": 2, "drop_path_rate": 0.1})
DESCRIPTION = EncoderDescription(
    encoder=RESNET18,
    image_size=72,
    mean=MEAN,
    std=STD,
    data_name="tiny",
    data_fingerprint="f" * 64,
    config_sha256="c" * 64,
    step=7,
    images_seen=3584,
)


def some_image(height: int, width: int) -> Image.Image:
    """Smooth, as photographs are."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def code_of_card(directory: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)
    assert found
    return found[1]


def needs(libraries: tuple[str, ...]) -> None:
    for library in libraries:
        pytest.importorskip(library, reason=f"{library} is not installed")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("torchvision", RESNET18),
        pytest.param("timm", RESNET18, marks=pytest.mark.slow),
        ("timm", VIT),
        pytest.param("huggingface", RESNET18, marks=pytest.mark.slow),
        ("huggingface", NARROW),
        ("huggingface", VIT),
        ("onnx", CIFAR),
        pytest.param("onnx", GROUP_NORM, marks=pytest.mark.slow),
        pytest.param("onnx", VIT, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.name}-x{value.width:g}-{value.stem}-{value.norm}",
)
def test_the_code_of_the_card_computes_h(
    name: str, config: EncoderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs((*FORMATS[name].libraries, FORMATS[name].runner))
    monkeypatch.chdir(tmp_path)
    encoder = save_random_encoder(tmp_path / "encoder", config)
    assert main(["encoder", "--format", name, "--output", "out"]) == 0
    image = some_image(32, 32)  # of the encoder's size, so that no library has to resize it
    image.save("image.jpg", format="png")
    names: dict[str, Any] = {}
    exec(code_of_card(tmp_path / "out"), names)  # noqa: S102  # ours
    pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        h = encoder((pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    assert h.abs().max() > 0.1
    torch.testing.assert_close(torch.as_tensor(names["h"]), h, rtol=0, atol=1e-5 * float(h.abs().max()))
    if name == "onnx":
        five = names["session"].run(["h"], {"images": pixels.repeat(5, 1, 1, 1).numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(five), h.expand(5, -1), rtol=0, atol=1e-5 * float(h.abs().max()))
        properties = names["session"].get_modelmeta().custom_metadata_map
        assert properties["normalisation"] == "in the graph: mean [0.25, 0.5, 0.75], std [0.5, 0.25, 0.2]"
        assert properties["input"] == "images: (batch, 3, 32, 32) float32, RGB in [0, 1]"


@pytest.mark.slow
def test_torchvision_misses_its_classifier_and_nothing_else(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    save_random_encoder(tmp_path / "encoder", EncoderConfig(name="resnet50"))
    assert main([str(tmp_path / "encoder"), "--format", "torchvision", "--output", str(tmp_path / "out")]) == 0
    missing, unexpected = models.resnet50().load_state_dict(
        load_file(tmp_path / "out" / "model.safetensors"), strict=False
    )
    assert missing == ["fc.weight", "fc.bias"]
    assert unexpected == []


def test_timm_puts_a_classifier_of_any_size_on_top(tmp_path: Path) -> None:
    encoder = save_random_encoder(tmp_path / "encoder", RESNET18)
    assert main([str(tmp_path / "encoder"), "--format", "timm", "--output", str(tmp_path / "out")]) == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=7)
    assert model.fc.out_features == 7
    assert torch.equal(model.layer4[1].conv2.weight, encoder.layer4[1].conv2.weight)


def their_view(name: str, image: Image.Image) -> npt.NDArray[np.float32]:
    """(3, s, s) as the transform in the usage of a format makes it."""
    code = FORMATS[name].usage(DESCRIPTION, Place(directory="out"))
    if name == "torchvision":
        lines = code[code.index("transform = ") : code.index("with torch")]
        names: dict[str, Any] = {}
        exec("from torchvision import transforms\n" + lines, names)  # noqa: S102  # ours
        return np.asarray(names["transform"](image))
    if name == "timm":
        config = timm_config(DESCRIPTION, 512)["pretrained_cfg"]
        model = timm.create_model("resnet18", num_classes=0, pretrained_cfg=config)
        return np.asarray(timm.data.create_transform(**timm.data.resolve_model_data_config(model))(image))
    processed = image_processor(DESCRIPTION)(image, return_tensors="np")
    return np.asarray(processed["pixel_values"][0])


@pytest.mark.parametrize("name", ["torchvision", "timm", "huggingface"])
@pytest.mark.parametrize("size", [(150, 100), (90, 200)])
def test_a_library_cuts_and_normalises_as_evaluation_does(name: str, size: tuple[int, int]) -> None:
    needs(FORMATS[name].libraries)
    image = some_image(*size)
    canvas = torch.from_numpy(np.array(image.resize((256, 256), Image.Resampling.BICUBIC))).permute(2, 0, 1)[None]
    ours = EvalView(72)(canvas, *(np.array([side]) for side in size))[0]
    normalised = (ours - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    theirs = torch.from_numpy(their_view(name, image))
    assert theirs.shape == (3, 72, 72)
    difference = (theirs - normalised).abs().mean() * torch.tensor(STD).mean()
    assert difference < 3 / 255
    shifted = (theirs[:, :, 2:] - normalised[:, :, :-2]).abs().mean() * torch.tensor(STD).mean()
    assert shifted > 2 * difference  # a crop two pixels off would be seen


@pytest.mark.parametrize(("name", "layer_type", "width"), [("resnet34", "basic", 1), ("resnet50", "bottleneck", 4)])
def test_transformers_resnet_has_our_tensors_under_its_names(name: str, layer_type: str, width: int) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ResNetConfig(
        depths=[3, 4, 6, 3], layer_type=layer_type, hidden_sizes=[64 * width * 2**stage for stage in range(4)]
    )
    with torch.device("meta"):
        theirs = transformers.ResNetModel(config).state_dict()
        ours = build_encoder(EncoderConfig(name=name), 64).state_dict()
    assert {their_name(key): tensor.shape for key, tensor in ours.items()} == {
        key: tensor.shape for key, tensor in theirs.items()
    }


def test_the_record_says_how_the_input_is_made(tmp_path: Path) -> None:
    save_random_encoder(tmp_path / "encoder", CIFAR, image_size=96)
    write_record(tmp_path, read_source(tmp_path / "encoder"), "onnx")
    record = json.loads((tmp_path / "diptych.json").read_text())
    assert (record["mean"], record["std"], record["image_size"]) == (list(MEAN), list(STD), 96)
    assert (record["crop_share"], record["interpolation"]) == (0.875, "bilinear")


@pytest.mark.parametrize("size", [32, 64, 65, 224])
def test_the_recorded_crop_is_that_of_evaluation(size: int) -> None:
    assert replace(DESCRIPTION, image_size=size).crop_share == EvalView(size)._share


def test_an_export_that_differs_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save_rounded(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        rounded = {name: tensor.bfloat16().to(tensor.dtype) for name, tensor in tensors.items()}
        save_file(rounded, path, metadata=metadata)

    save_random_encoder(tmp_path / "encoder", VIT)
    monkeypatch.setattr("safetensors.torch.save_file", save_rounded)
    assert main([str(tmp_path / "encoder"), "--format", "timm", "--output", str(tmp_path / "out")]) == 2
    assert "the export differs from the encoder by" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_load_encoder_takes_text_and_run_directories(tmp_path: Path) -> None:
    encoder = save_random_encoder(tmp_path / "encoder", CIFAR)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for place in (str(tmp_path), tmp_path, str(tmp_path / "encoder"), tmp_path / "encoder"):
        loaded, description = load_encoder(place)
        assert torch.equal(loaded(images), encoder(images))
        assert description.mean == MEAN


@pytest.mark.slow
def test_weights_too_large_for_one_file_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs((*FORMATS["onnx"].libraries, FORMATS["onnx"].runner))
    monkeypatch.setattr("model.formats.onnx_format._LARGEST_FILE", 0)
    save_random_encoder(tmp_path / "encoder", CIFAR)
    assert main([str(tmp_path / "encoder"), "--format", "onnx", "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size > (tmp_path / "out" / "model.onnx").stat().st_size
