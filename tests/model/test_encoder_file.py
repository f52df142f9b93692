import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import EncoderConfig
from model.description import EncoderDescription, read_description
from model.encoder import build_encoder
from model.encoder_file import load_encoder, save_encoder
from model.errors import ModelError

CONFIG = EncoderConfig(name="resnet18", stem="cifar", width=0.125)
DESCRIPTION = EncoderDescription(
    encoder=CONFIG,
    image_size=32,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    data_name="tiny",
    data_fingerprint="f" * 64,
    config_sha256="c" * 64,
    step=7,
    images_seen=70,
)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    torch.manual_seed(0)
    encoder = build_encoder(CONFIG, 32)
    encoder(torch.randn(8, 3, 32, 32))  # running statistics that are not the initial ones
    save_encoder(tmp_path / "encoder", encoder.state_dict(), DESCRIPTION)
    return encoder, tmp_path / "encoder"


def test_a_loaded_encoder_computes_what_the_saved_one_did(saved: tuple[Any, Path]) -> None:
    encoder, directory = saved
    loaded, description = load_encoder(directory)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(loaded(images), encoder.eval()(images))
    assert not loaded.training
    assert description == DESCRIPTION == read_description(directory)


def test_saving_again_replaces_the_encoder(saved: tuple[Any, Path]) -> None:
    _, directory = saved
    other = build_encoder(CONFIG, 32)
    save_encoder(directory, other.state_dict(), DESCRIPTION)
    loaded, _ = load_encoder(directory)
    assert torch.equal(loaded.conv1.weight, other.conv1.weight)
    assert sorted(path.name for path in directory.iterdir()) == ["encoder.json", "model.safetensors"]


def test_a_vision_transformer_comes_back_as_it_was(tmp_path: Path) -> None:
    config = EncoderConfig(name="vit_tiny_patch16_224", arguments={"patch_size": 8, "depth": 2})
    encoder = build_encoder(config, 32)
    save_encoder(tmp_path, encoder.state_dict(), replace(DESCRIPTION, encoder=config))
    loaded, description = load_encoder(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), encoder.eval()(images))
    assert description.encoder == config


def test_a_description_from_before_norm_and_arguments_is_read(saved: tuple[Any, Path]) -> None:
    _, directory = saved
    edit(directory, encoder={"name": "resnet18", "stem": "cifar", "width": 0.125})
    assert load_encoder(directory)[1] == DESCRIPTION


def flip_a_bit(directory: Path) -> str:
    data = bytearray((directory / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (directory / "model.safetensors").write_bytes(data)
    return "does not match encoder.json"


def remove_weights(directory: Path) -> str:
    (directory / "model.safetensors").unlink()
    return "model.safetensors: cannot be read"


def remove_description(directory: Path) -> str:
    (directory / "encoder.json").unlink()
    return "encoder.json: no such file"


def edit(directory: Path, **changes: Any) -> None:
    content = json.loads((directory / "encoder.json").read_text())
    (directory / "encoder.json").write_text(json.dumps(content | changes))


def other_architecture(directory: Path) -> str:
    edit(directory, encoder={"name": "resnet18", "stem": "cifar", "width": 0.25})
    return "size mismatch"


def other_version(directory: Path) -> str:
    edit(directory, version=99)
    return "format version 99, this program reads 1"


def other_field(directory: Path) -> str:
    edit(directory, colour="red")
    return "malformed"


@pytest.mark.parametrize(
    "damage", [flip_a_bit, remove_weights, remove_description, other_architecture, other_version, other_field]
)
def test_a_damaged_encoder_is_refused_in_one_line(saved: tuple[Any, Path], damage: Callable[[Path], str]) -> None:
    _, directory = saved
    expected = damage(directory)
    with pytest.raises(ModelError, match=expected) as caught:
        load_encoder(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)
