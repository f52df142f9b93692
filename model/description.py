"""What stands beside an encoder's weights: architecture, how its input is made, what it was trained on.

Nothing here imports torch, so that what an encoder cannot be used for is said before that takes its seconds.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import EncoderConfig
from model.errors import ModelError

FORMAT_VERSION = 1
DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError)
"""What reading a file that is not what it should be may raise."""
WEIGHTS_NAME, DESCRIPTION_NAME = "model.safetensors", "encoder.json"
_SMALL_VIEW = 64
_CROP_SHARE = 0.875


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

    @property
    def crop_share(self) -> float:
        """Side of the central square that evaluation shows, as a share of the image's shorter side.

        0.875 (224 of 256), or all of it where views are small, as in CIFAR-10's.
        """
        return _CROP_SHARE if self.image_size > _SMALL_VIEW else 1.0

    @property
    def resized_side(self) -> int:
        """Shorter side in pixels of a resized image whose central `image_size` pixels are that square: 256 for 224."""
        return round(self.image_size / self.crop_share)


def find_encoder(directory: str | Path) -> Path:
    """Where an encoder's files lie: RUN/encoder of a run directory, or the directory itself."""
    path = Path(directory)
    inside = path / "encoder"
    is_run = not (path / DESCRIPTION_NAME).is_file() and (inside / DESCRIPTION_NAME).is_file()
    return inside if is_run else path


def read_description(directory: Path) -> EncoderDescription:
    """Read `encoder.json`.

    Raises:
        ModelError: it is missing, malformed or of another version.
    """
    return parse_description(directory)[0]


def weights_sha256(directory: Path) -> str:
    """Hash of the weights, as `encoder.json` states it; names an encoder.

    Raises:
        ModelError: it is missing, malformed or of another version.
    """
    return parse_description(directory)[1]


def parse_description(directory: Path) -> tuple[EncoderDescription, str]:
    """Both of the above."""
    path = directory / DESCRIPTION_NAME
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(
            f"{path}: no such file; name a directory that holds an exported encoder, or its run directory"
        ) from None
    except DAMAGE as error:
        raise ModelError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict) or content.pop("format", None) != "diptych-encoder":
        raise ModelError(f"{path}: not the description of an encoder")
    version = content.pop("version", None)
    if version != FORMAT_VERSION:
        raise ModelError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}")
    missing = [name for name in ("mean", "std") if name not in content]
    if missing:
        raise ModelError(
            f"{path}: {' and '.join(missing)} missing: how the input is normalised is not known; start the run's "
            "command again, which writes its encoder anew"
        )
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
        "std": _is_colour(description.std) and min(description.std) > 0,
        "data_name": isinstance(description.data_name, str),
        "data_fingerprint": isinstance(description.data_fingerprint, str),
        "step": isinstance(description.step, int),
        "images_seen": isinstance(description.images_seen, int),
    }
    for name, fit in fits.items():
        if not fit:
            raise ValueError(f"{name} does not fit")


def _is_colour(values: tuple[Any, ...]) -> bool:
    return len(values) == 3 and all(isinstance(value, int | float) and abs(value) < math.inf for value in values)
