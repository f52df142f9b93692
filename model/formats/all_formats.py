"""The formats that there are, by the names that `--format` takes."""

from model.formats.huggingface_format import HUGGINGFACE
from model.formats.onnx_format import ONNX
from model.formats.timm_format import TIMM
from model.formats.torchvision_format import TORCHVISION

FORMATS = {given.name: given for given in (TORCHVISION, TIMM, HUGGINGFACE, ONNX)}
