"""The encoder as a file: what passes from pretraining to evaluation and to everyone else.

DIR/model.safetensors   weights under timm's and torchvision's names, plain BatchNorm
DIR/encoder.json        architecture, how its input is made, what it was trained on
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import EncoderConfig
from model.encoder import build_encoder
from model.errors import ModelError

FORMAT_VERSION = 1
WEIGHTS_NAME, DESCRIPTION_NAME = "model.safetensors", "encoder.json"


@dataclass(frozen=True, kw_only=True)
class EncoderDescription:
    """What a reader of the weights must know."""

    encoder: EncoderConfig
    image_size: int
    """Side in pixels of the views that it was trained on."""
    mean: tuple[float, float, float]
    """Subtracted from RGB in [0, 1] before the encoder; (0, 0, 0) as in the reference code."""
    std: tuple[float, float, float]
    """Divides after that; (1, 1, 1) as in the reference code."""
    data_name: str
    data_fingerprint: str
    config_sha256: str
    """Of the resolved configuration of the run."""
    step: int
    """Updates made."""
    images_seen: int
    """Source images consumed by all ranks; two views of each."""


def save_encoder(directory: Path, state: dict[str, Tensor], description: EncoderDescription) -> None:
    """Write the encoder; each file appears whole, the description, which holds the weights' hash, last.

    Args:
        directory: made if it is missing.
        state: of the bare encoder, without prefix, with plain BatchNorm's names.
        description: written beside it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / WEIGHTS_NAME
    partial = weights.with_suffix(".partial")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, partial)
    digest = _sha256(partial)
    partial.replace(weights)
    content = {"format": "diptych-encoder", "version": FORMAT_VERSION, "weights_sha256": digest, **asdict(description)}
    partial = (directory / DESCRIPTION_NAME).with_suffix(".partial")
    with partial.open("w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / DESCRIPTION_NAME)


def read_description(directory: Path) -> EncoderDescription:
    """Read `encoder.json`.

    Raises:
        ModelError: it is missing, malformed or of another version.
    """
    return _parse(directory / DESCRIPTION_NAME)[0]


def load_encoder(directory: Path) -> tuple[Any, EncoderDescription]:
    """Load an encoder in eval mode.

    Returns:
        The module, (B, 3, s, s) -> (B, num_features), and its description.

    Raises:
        ModelError: a file is missing or damaged, or the weights do not fit the architecture.
    """
    description, digest = _parse(directory / DESCRIPTION_NAME)
    path = directory / WEIGHTS_NAME
    try:
        if _sha256(path) != digest:
            raise ModelError(f"{path}: does not match {DESCRIPTION_NAME} (sha256 differs); export the encoder again")
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); export the encoder again") from None
    encoder = build_encoder(description.encoder, description.image_size)
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path}: {' '.join(str(error).split())}") from None
    return encoder.eval(), description


def _parse(path: Path) -> tuple[EncoderDescription, str]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; name a directory that holds an exported encoder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict) or content.pop("format", None) != "diptych-encoder":
        raise ModelError(f"{path}: not the description of an encoder")
    version = content.pop("version", None)
    if version != FORMAT_VERSION:
        raise ModelError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}")
    try:
        digest = str(content.pop("weights_sha256"))
        content["encoder"] = EncoderConfig(**content["encoder"])
        content["mean"], content["std"] = tuple(content["mean"]), tuple(content["std"])
        return EncoderDescription(**content), digest
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path}: malformed ({type(error).__name__}: {error})") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
