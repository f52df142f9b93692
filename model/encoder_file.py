"""The encoder as a file: what passes from pretraining to evaluation and to everyone else.

DIR/model.safetensors   weights under timm's and torchvision's names, plain BatchNorm
DIR/encoder.json        architecture, how its input is made, what it was trained on
"""

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.description import (
    DAMAGE,
    DESCRIPTION_NAME,
    FORMAT_VERSION,
    WEIGHTS_NAME,
    EncoderDescription,
    find_encoder,
    parse_description,
)
from model.encoder import build_encoder
from model.errors import ModelError


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


def load_encoder(directory: str | Path) -> tuple[Any, EncoderDescription]:
    """Load an encoder in eval mode, with gradients as any module has them.

    Args:
        directory: of the encoder's files, or the run directory that they lie in.

    Returns:
        The module, (B, 3, s, s) -> (B, num_features), and its description. The module wants its input normalised:
        (views - mean) / std of the description, where views are in [0, 1].

    Raises:
        ModelError: a file is missing or damaged, or the weights do not fit the architecture.
    """
    directory = find_encoder(directory)
    description, digest = parse_description(directory)
    path = directory / WEIGHTS_NAME
    try:
        if _sha256(path) != digest:
            raise ModelError(f"{path}: does not match {DESCRIPTION_NAME} (sha256 differs); export the encoder again")
        state = load_file(path)
    except (SafetensorError, *DAMAGE) as error:
        raise ModelError(f"{path}: cannot be read ({error}); export the encoder again") from None
    encoder = build_encoder(description.encoder, description.image_size)
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path}: {' '.join(str(error).split())}") from None
    return encoder.eval(), description


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
