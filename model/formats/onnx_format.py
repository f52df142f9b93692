"""One ONNX graph from images to h, with the normalisation in it: what runs it needs neither torch nor a formula."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.description import EncoderDescription
from model.errors import ModelError
from model.formats.format import Format, Place

if TYPE_CHECKING:
    from torch import Tensor

FILE_NAME = "model.onnx"
_LARGEST_FILE = 2**31 - 2**24
"""A protobuf holds less than 2 GiB; larger weights lie in a file beside it."""
_TRACED_IMAGES = 2  # of 1 the exporter would make a constant


def refuse(_: EncoderDescription) -> None:
    """Any encoder has a graph."""


def write(encoder: Any, description: EncoderDescription, directory: Path) -> None:
    """Trace the encoder after its normalisation, for any number of images of one size.

    Raises:
        ModelError: an operation of the encoder has no counterpart in ONNX.
    """
    import onnx
    import torch

    from model.normalised import NormalisedEncoder

    path = directory / FILE_NAME
    size = sum(tensor.nbytes for tensor in encoder.state_dict().values())
    try:
        torch.onnx.export(
            NormalisedEncoder(encoder, description).eval(),
            (torch.zeros(_TRACED_IMAGES, 3, description.image_size, description.image_size),),
            path,
            dynamo=True,
            input_names=["images"],
            output_names=["h"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=size > _LARGEST_FILE,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ModelError(
            f"encoder.name = {description.encoder.name}: torch cannot write it as ONNX "
            f"({' '.join(str(error.__cause__ or error).split())[:300]}); use --format timm or huggingface"
        ) from None
    graph = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(
        graph,
        {
            "input": f"images: (batch, 3, {description.image_size}, {description.image_size}) float32, RGB in [0, 1]",
            "normalisation": f"in the graph: mean {list(description.mean)}, std {list(description.std)}",
            "crop": f"central square, {description.crop_share:g} of the shorter side",
            "architecture": description.encoder.name,
        },
    )
    onnx.save(graph, path)


def load(directory: Path) -> "Callable[[Tensor], Tensor] | None":
    """Check the graph with onnx and run it with ONNX Runtime.

    Raises:
        ModelError: the checker refuses it.
    """
    import onnx
    import torch

    path = directory / FILE_NAME
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{path}: onnx.checker refuses it ({' '.join(str(error).split())[:300]})") from None
    if find_spec("onnxruntime") is None:
        return None
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["h"], {"images": images.numpy()})[0])


def usage(description: EncoderDescription, place: Place) -> str:
    """With ONNX Runtime and Pillow, without torch."""
    size, share = description.image_size, description.crop_share
    if place.repository:
        of_hub = "from huggingface_hub import hf_hub_download\n"
        file = f'hf_hub_download("{place.repository}", "{FILE_NAME}")'
    else:
        of_hub, file = "", json.dumps(f"{place.directory}/{FILE_NAME}")
    return f"""\
import numpy as np
{of_hub}from onnxruntime import InferenceSession
from PIL import Image

session = InferenceSession({file})
image = Image.open("image.jpg").convert("RGB")
side = {share:g} * min(image.size)
left, top = (image.width - side) / 2, (image.height - side) / 2
view = image.resize(({size}, {size}), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
(h,) = session.run(["h"], {{"images": np.asarray(view, np.float32).transpose(2, 0, 1)[None] / 255}})"""


ONNX = Format(
    name="onnx",
    libraries=("onnx", "onnxscript"),
    runner="onnxruntime",
    library_name="onnx",
    input_note="The graph normalises; it is given images in [0, 1].",
    refuse=refuse,
    write=write,
    load=load,
    usage=usage,
)
