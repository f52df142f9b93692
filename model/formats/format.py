"""What a format is: how an encoder is written in it, read back by its own library, and used."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.description import EncoderDescription
from model.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

RECORD_NAME = "diptych.json"
"""In every export: the encoder's description, and of which format the directory is."""
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
"""Those whose stem, width and norm are ours to choose, and which other libraries know by the same names."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where those who load an export will find it."""

    directory: str
    repository: str = ""
    """OWNER/NAME on the Hugging Face hub; empty for an export that stays here."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write an encoder."""

    name: str
    libraries: tuple[str, ...]
    """Modules that `write` and `load` cannot do without."""
    runner: str
    """Distribution that runs what `load` reads."""
    library_name: str
    """As the hub knows what loads it."""
    input_note: str
    """For the model card: who crops and normalises."""
    refuse: Callable[[EncoderDescription], None]
    """Raises ModelError where the format has no words for the encoder; imports no library."""
    write: Callable[[Any, EncoderDescription, Path], None]
    """An encoder in eval mode, on the host, into a directory that is there and holds RECORD_NAME."""
    load: Callable[[Path], "Callable[[Tensor], Tensor] | None"]
    """Read such a directory as its users will: a function from images (B, 3, s, s) in [0, 1] to h (B, D), which
    normalises by what the directory says. None where what runs it is not installed."""
    usage: Callable[[EncoderDescription, Place], str]
    """Python for the model card that loads it, and computes h of an image file."""


def refuse_what_resnets_lack(description: EncoderDescription, format_name: str, *, any_width: bool = False) -> None:
    """Check that a library's ResNet can be what ours is.

    Args:
        description: of a ResNet.
        format_name: of the library.
        any_width: whether channel counts can be chosen there.

    Raises:
        ModelError: stem, width or norm are not to be had.
    """
    encoder = description.encoder
    if encoder.stem != "imagenet":
        raise ModelError(
            f"encoder.stem = {encoder.stem}: the ResNets of --format {format_name} all begin with a 7x7 convolution of "
            "stride 2 and max-pooling; use --format onnx"
        )
    if encoder.norm != "batch":
        raise ModelError(
            f"encoder.norm = {encoder.norm}: the ResNets of --format {format_name} have BatchNorm; use --format onnx"
        )
    if encoder.width != 1 and not any_width:
        raise ModelError(
            f"encoder.width = {encoder.width:g}: the ResNets of --format {format_name} have width 1, and their wide "
            "ones other channels than ours; use --format huggingface or onnx"
        )
