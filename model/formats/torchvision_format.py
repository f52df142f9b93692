"""torchvision's ResNets: weights under its names, and a record of what their input must be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.description import WEIGHTS_NAME, EncoderDescription
from model.errors import ModelError
from model.formats.format import RECORD_NAME, RESNETS, Format, Place, refuse_what_resnets_lack

if TYPE_CHECKING:
    from torch import Tensor


def refuse(description: EncoderDescription) -> None:
    """All but ResNets of width 1 with BatchNorm and ImageNet's stem."""
    if description.encoder.name not in RESNETS:
        raise ModelError(
            f"encoder.name = {description.encoder.name}: --format torchvision knows {', '.join(RESNETS)}; use --format "
            "timm, huggingface or onnx"
        )
    refuse_what_resnets_lack(description, "torchvision")


def write(encoder: Any, _: EncoderDescription, directory: Path) -> None:
    """Our names are torchvision's."""
    from safetensors.torch import save_file

    save_file(encoder.state_dict(), directory / WEIGHTS_NAME, metadata={"format": "pt"})


def load(directory: Path) -> Callable[["Tensor"], "Tensor"]:
    """Into torchvision's own model, whose classifier is taken off."""
    import torch
    from safetensors.torch import load_file
    from torchvision import models
    from torchvision.transforms.functional import normalize

    record = json.loads((directory / RECORD_NAME).read_text())
    model = models.get_model(record["encoder"]["name"])
    missing, unexpected = model.load_state_dict(load_file(directory / WEIGHTS_NAME), strict=False)
    if set(missing) != {"fc.weight", "fc.bias"} or unexpected:
        raise ModelError(f"{directory}: torchvision misses {missing} and does not expect {unexpected}")
    model.fc = torch.nn.Identity()
    model.eval()
    return lambda images: model(normalize(images, record["mean"], record["std"]))


def usage(description: EncoderDescription, place: Place) -> str:
    """With torchvision's transforms."""
    name, size = description.encoder.name, description.image_size
    if place.repository:
        of_hub = "from huggingface_hub import hf_hub_download\n"
        file = f'hf_hub_download("{place.repository}", "{WEIGHTS_NAME}")'
    else:
        of_hub, file = "", json.dumps(f"{place.directory}/{WEIGHTS_NAME}")
    return f"""\
import torch
{of_hub}from PIL import Image
from safetensors.torch import load_file
from torchvision import models, transforms

encoder = models.{name}().eval()
encoder.fc = torch.nn.Identity()
encoder.load_state_dict(load_file({file}))

transform = transforms.Compose([
    transforms.Resize({description.resized_side}),
    transforms.CenterCrop({size}),
    transforms.ToTensor(),
    transforms.Normalize({list(description.mean)}, {list(description.std)}),
])
with torch.no_grad():
    h = encoder(transform(Image.open("image.jpg").convert("RGB"))[None])"""


TORCHVISION = Format(
    name="torchvision",
    libraries=("torchvision",),
    runner="torchvision",
    library_name="torchvision",
    input_note=f"torchvision reads no record of this: it has to be done as above. {RECORD_NAME} has the numbers.",
    refuse=refuse,
    write=write,
    load=load,
    usage=usage,
)
