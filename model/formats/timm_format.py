"""The layout that timm loads from a directory or the Hugging Face hub: config.json and weights under its names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.description import WEIGHTS_NAME, EncoderDescription
from model.formats.format import RESNETS, Format, Place, refuse_what_resnets_lack

if TYPE_CHECKING:
    from torch import Tensor


def refuse(description: EncoderDescription) -> None:
    """Of ResNets all but those of width 1 with BatchNorm and ImageNet's stem; other models are timm's own."""
    if description.encoder.name in RESNETS:
        refuse_what_resnets_lack(description, "timm")


def write(encoder: Any, description: EncoderDescription, directory: Path) -> None:
    """Not by timm's own writer, which takes preprocessing and tags from the supervised weights of the same name."""
    from safetensors.torch import save_file

    save_file(encoder.state_dict(), directory / WEIGHTS_NAME, metadata={"format": "pt"})
    config = timm_config(description, encoder.num_features)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def timm_config(description: EncoderDescription, features: int) -> dict[str, Any]:
    """config.json as timm reads it: which model, with which arguments, on what input.

    Args:
        description: of the encoder.
        features: length of h.
    """
    import timm

    name, size = description.encoder.name, description.image_size
    timms = timm.get_pretrained_cfg(name)
    is_fixed = name not in RESNETS and timms is not None and timms.fixed_input_size
    # A ResNet's arguments are rates of what is dropped in training.
    arguments = {} if name in RESNETS else ({"img_size": size} if is_fixed else {}) | description.encoder.arguments
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": features,
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "simclr",
            "custom_load": False,
            "num_classes": 0,
            "input_size": [3, size, size],
            "fixed_input_size": is_fixed,
            "mean": list(description.mean),
            "std": list(description.std),
            "interpolation": "bilinear",
            "crop_pct": description.crop_share,
            "crop_mode": "center",
            "first_conv": timms.first_conv if timms else None,
            "classifier": timms.classifier if timms else None,
        },
    }


def load(directory: Path) -> Callable[["Tensor"], "Tensor"]:
    """As `timm.create_model` makes it of the directory."""
    import timm
    from torchvision.transforms.functional import normalize

    model = timm.create_model(f"local-dir:{directory}", pretrained=True, num_classes=0).eval()
    data = timm.data.resolve_model_data_config(model)
    return lambda images: model(normalize(images, data["mean"], data["std"]))


def usage(_: EncoderDescription, place: Place) -> str:
    """With timm's transforms."""
    source = f"hf-hub:{place.repository}" if place.repository else f"local-dir:{place.directory}"
    return f"""\
import timm
import torch
from PIL import Image

encoder = timm.create_model({json.dumps(source)}, pretrained=True, num_classes=0).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))
with torch.no_grad():
    h = encoder(transform(Image.open("image.jpg").convert("RGB"))[None])"""


TIMM = Format(
    name="timm",
    libraries=("timm",),
    runner="timm",
    library_name="timm",
    input_note="timm's transform above does all of it, from config.json.",
    refuse=refuse,
    write=write,
    load=load,
    usage=usage,
)
