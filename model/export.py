"""The encoder as a file: what passes from pretraining to evaluation and to everyone else.

DIR/model.safetensors   weights under timm's and torchvision's names, plain BatchNorm
DIR/encoder.json        architecture, how its input is made, what it was trained on
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from contextlib import suppress
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
_DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError)
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
        directory: made if it is missing, but what it lies in is not.
        state: of the bare encoder, without prefix, with plain BatchNorm's names.
        description: written beside it.

    Raises:
        OSError: it could not be written; the description does not fit the weights then, or both are as they were.
    """
    directory.mkdir(exist_ok=True)
    weights, text = directory / WEIGHTS_NAME, directory / DESCRIPTION_NAME
    partials = weights.with_suffix(".partial"), text.with_suffix(".partial")
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, partials[0])
        content = {
            "format": "diptych-encoder",
            "version": FORMAT_VERSION,
            "weights_sha256": _sha256(partials[0]),
            **asdict(description),
        }
        partials[1].write_text(json.dumps(content, indent=1) + "\n")
        for partial in partials:
            _sync(partial)
        partials[0].replace(weights)
        partials[1].replace(text)
    except SafetensorError as error:  # it wraps what the system said
        _remove(partials)
        raise OSError(f"{weights}: {error}") from error
    except OSError:
        _remove(partials)
        raise


def read_description(directory: Path) -> EncoderDescription:
    """Read `encoder.json`.

    Raises:
        ModelError: it is missing, malformed or of another version.
    """
    return _parse(directory / DESCRIPTION_NAME)[0]


def weights_sha256(directory: Path) -> str:
    """Hash of the weights, as `encoder.json` states it; names an encoder.

    Raises:
        ModelError: it is missing, malformed or of another version.
    """
    return _parse(directory / DESCRIPTION_NAME)[1]


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
    except (SafetensorError, *_DAMAGE) as error:
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
    except _DAMAGE as error:
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
        description = EncoderDescription(**content)
        _check(description)
        return description, digest
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: malformed ({type(error).__name__}: {error})") from None


def _check(description: EncoderDescription) -> None:
    """Nothing has looked at the values yet: they are whatever the file says."""
    encoder = description.encoder
    fits = {
        "encoder.name": isinstance(encoder.name, str),
        "encoder.stem": encoder.stem in ("imagenet", "cifar"),
        "encoder.width": isinstance(encoder.width, int | float) and 0 < encoder.width < math.inf,
        "encoder.norm": encoder.norm in ("batch", "group"),
        "encoder.arguments": isinstance(encoder.arguments, dict),
        "image_size": isinstance(description.image_size, int) and 0 < description.image_size < 2**16,
        "mean": _is_colour(description.mean),
        "std": _is_colour(description.std),
    }
    for name, fit in fits.items():
        if not fit:
            raise ValueError(f"{name} does not fit")


def _is_colour(values: tuple[Any, ...]) -> bool:
    return len(values) == 3 and all(isinstance(value, int | float) for value in values)


def _remove(paths: Iterable[Path]) -> None:
    """A full disk needs its room back; one that does not even take this has said so already."""
    with suppress(OSError):
        for path in paths:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
