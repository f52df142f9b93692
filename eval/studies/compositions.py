"""Which flags make the views of the composition study (Chen et al. 2020, figure 5)."""

import json
from collections.abc import Set

_VIEW_OPERATIONS = {
    "crop": ("crop", "flip"),
    "rotation": ("rotation",),
    "colour": ("jitter", "grayscale"),
    "blur": ("blur",),
    "sobel": ("sobel",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
"""What each operation of the study is in `views`, in the order in which views apply them."""
_PROBABILITY = {
    "rotation": 0.75,  # one of four directions, the image's own among them
    "jitter": 0.8,  # the paper's, appendix A
    "grayscale": 0.2,
    "blur": 1.0,
    "sobel": 1.0,
    "noise": 1.0,
    "cutout": 1.0,
}


def in_order(a: str, b: str) -> tuple[str, str]:
    """Two operations of the study, the one that views apply first before the other."""
    first, second = sorted((a, b), key=list(_VIEW_OPERATIONS).index)
    return first, second


def composition_flags(operations: Set[str], *, one_branch: bool) -> tuple[str, ...]:
    """Flags of train/pretrain.py for views of these operations and no others.

    Range of the crop, strength of the jitter and probability of the flip stay the configuration's. Without crop a view
    is the whole image (with the sampler of torchvision, the middle of one that is wider or higher than 4 to 3).

    Args:
        operations: of crop, rotation, colour, blur, sobel, noise, cutout.
        one_branch: spare the second view all of them.
    """
    applied = [view for name, views in _VIEW_OPERATIONS.items() if name in operations for view in views]
    flags = [f"--views.{view}_probability={p if view in applied else 0.0}" for view, p in _PROBABILITY.items()]
    if "crop" not in operations:
        flags += ["--views.crop_area_min=1.0", "--views.crop_area_max=1.0", "--views.flip_probability=0.0"]
    return (*flags, f"--views.first_view_only={json.dumps(applied if one_branch else [])}")
