"""Directories of transformers' `from_pretrained`: its own ResNet for ours, its wrapper of timm for all other models."""

import json
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.description import EncoderDescription
from model.formats import timm_format
from model.formats.format import RESNETS, Format, Place, refuse_what_resnets_lack

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = (
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"\.conv(\d)\.", lambda found: f".layer.{int(found[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda found: f".layer.{int(found[1]) - 1}.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"^layer(\d)\.(\d+)\.", lambda found: f"encoder.stages.{int(found[1]) - 1}.layers.{found[2]}."),
)
"""Patterns of our names, one after another, and what transformers calls them."""


def refuse(description: EncoderDescription) -> None:
    """ResNets with CIFAR's stem or GroupNorm, which are not to be had there; other widths are."""
    if description.encoder.name in RESNETS:
        refuse_what_resnets_lack(description, "huggingface", any_width=True)


def write(encoder: Any, description: EncoderDescription, directory: Path) -> None:
    """Let transformers write its own files."""
    if description.encoder.name not in RESNETS:
        timm_format.write(encoder, description, directory)
        return
    from transformers import ResNetConfig, ResNetModel

    blocks = [getattr(encoder, f"layer{stage}") for stage in range(1, 5)]
    bottleneck = hasattr(encoder.layer1[0], "conv3")
    config = ResNetConfig(
        embedding_size=encoder.conv1.out_channels,
        hidden_sizes=[(stage[-1].bn3 if bottleneck else stage[-1].bn2).num_features for stage in blocks],
        depths=[len(stage) for stage in blocks],
        layer_type="bottleneck" if bottleneck else "basic",
    )
    model = ResNetModel(config)
    model.load_state_dict({their_name(name): tensor for name, tensor in encoder.state_dict().items()})
    with _quiet():
        model.save_pretrained(directory)
        image_processor(description).save_pretrained(directory)


def image_processor(description: EncoderDescription) -> Any:
    """What makes evaluation's view of an image: resizes the short side, cuts the middle, normalises.

    Not the processor that transformers' own ResNets have, which from 384 pixels on stretches images to a square.
    """
    from transformers import BitImageProcessor

    return BitImageProcessor(
        size={"shortest_edge": description.resized_side},
        crop_size={"height": description.image_size, "width": description.image_size},
        resample=2,  # bilinear
        image_mean=list(description.mean),
        image_std=list(description.std),
    )


def their_name(name: str) -> str:
    """What transformers calls a tensor of our ResNet."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load(directory: Path) -> Callable[["Tensor"], "Tensor"]:
    """As AutoModel and AutoImageProcessor make it of the directory."""
    from torchvision.transforms.functional import normalize
    from transformers import AutoImageProcessor, AutoModel

    with _quiet():
        model = AutoModel.from_pretrained(directory, local_files_only=True).eval()
        processor = AutoImageProcessor.from_pretrained(directory, local_files_only=True)
    data = getattr(processor, "data_config", None)  # of the wrapper of timm
    mean, std = (data["mean"], data["std"]) if data else (processor.image_mean, processor.image_std)
    return lambda images: model(normalize(images, mean, std)).pooler_output.flatten(1)


def usage(_: EncoderDescription, place: Place) -> str:
    """With transformers' image processor."""
    source = json.dumps(place.repository or place.directory)
    return f"""\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

encoder = AutoModel.from_pretrained({source})
processor = AutoImageProcessor.from_pretrained({source})
with torch.no_grad():
    inputs = processor(Image.open("image.jpg").convert("RGB"), return_tensors="pt")
    h = encoder(**inputs).pooler_output.flatten(1)"""


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """No progress bar for a second's work, and no advice about processors."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


HUGGINGFACE = Format(
    name="huggingface",
    libraries=("transformers",),
    runner="transformers",
    library_name="transformers",
    input_note="The processor above does all of it.",
    refuse=refuse,
    write=write,
    load=load,
    usage=usage,
)
