"""The draws, arranged for the device: what each operation needs of its rows, in tensors that move in one copy.

Sizes of row lists are known here without asking the device, and so is the order that lets one pass over many views do
different operations: rows whose hue changes later stand first, so that all colour operations before the hue, the hue,
and all those after it are passes over contiguous rows. Whatever is a number per view is worked out here, too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.config import ViewsConfig
from pipelines.crop import AXIS_NUMBERS, crop_axes
from pipelines.draws import COLOUR_OPERATIONS, Bools, Draws

Rows = npt.NDArray[np.int64]
BLENDS = 3
"""Brightness, contrast and saturation: all but the hue."""
NO_LIMIT = float(np.finfo(np.float32).max)
NO_BLEND = (1.0, 0.0, 0.0, NO_LIMIT)
"""The numbers of a blend that changes nothing."""
LUMINANCE = {"torchvision": (0.299, 0.587, 0.114), "paper": (0.2989, 0.5870, 0.1140)}
"""Weights of red, green and blue in a gray: ITU-R BT.601 as Kornia has it, and TensorFlow's."""
_RED_GREEN_BLUE = np.array([0.0, 2.0, -2.0])  # hues in sixths of a turn
_CONTRAST, _SATURATION, _HUE = (COLOUR_OPERATIONS.index(name) for name in ("contrast", "saturation", "hue"))
# Beyond so many sigmas a Gaussian's taps together weigh less than 1e-6.
_SIGMAS = 5.3

# Columns of Plan.numbers, whole 64-bit words in all.
_WIDTHS = {
    "axes": 2 * AXIS_NUMBERS,
    "flip": 1,
    "sigma": 1,
    "blur exponent": 1,
    "factors": len(COLOUR_OPERATIONS),
    "cutout centre": 2,
    "noise std": 1,
    "blends": BLENDS * len(NO_BLEND),
    "hue shifts": 3,
    "luminance": 3,
    "hue later": BLENDS,
    "grayscale": 1,
}
_ENDS = np.cumsum(list(_WIDTHS.values())).tolist()
_COLUMNS = {name: slice(end - width, end) for (name, width), end in zip(_WIDTHS.items(), _ENDS, strict=True)}
_WIDTH = _ENDS[-1] + _ENDS[-1] % 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done to the 2B views of a batch of B images; rows i and i+B are the two views of image i."""

    numbers: Tensor
    """(2B, columns) float32; read by `column`."""
    rows: dict[str, Tensor]
    """int64 rows by what is done to them; `noise key` holds the 31-bit keys of the rows in `noise`."""
    hue_later: tuple[int, ...]
    """[j]: of the rows in `jitter`, how many have their hue changed after blend j. They stand first."""
    packed: Tensor
    """The memory of all of these but the last, so that one copy moves them."""

    def __len__(self) -> int:
        return len(self.numbers)

    def column(self, name: str) -> Tensor:
        """Numbers of one kind of all views, see `column`."""
        return column(self.numbers, name)

    def pin_memory(self) -> "Plan":
        """The same plan in page-locked memory, from which the copy to a GPU is asynchronous."""
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Plan":
        """The same plan on a device; asynchronous from page-locked memory."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def map(self, function: Callable[[Tensor], Tensor]) -> "Plan":
        """Apply a function to the packed memory."""
        lengths = {name: len(rows) for name, rows in self.rows.items()}
        return _unpack(function(self.packed), lengths, len(self), self.hue_later)


def column(numbers: Tensor, name: str) -> Tensor:
    """(N, n) numbers of one kind of N rows of Plan.numbers.

    axes: of the crop, two times seven, see `crop_axes`. flip: 1 where mirrored. sigma: of the blur, in pixels of the
    view. blur exponent: -1 / (2 sigma^2). factors: strength of each of COLOUR_OPERATIONS. cutout centre: row and column
    as shares of the side. noise std. blends: three times four, see `_blends`. hue shifts: see `colour.shift_hue_`.
    (Blends and shifts change nothing where colour is not jittered.) luminance: weights of red, green and blue. hue
    later: 1 where the hue changes after blend j. grayscale: 1 where the view turns gray.
    """
    return numbers[:, _COLUMNS[name]]


def plan_views(config: ViewsConfig, draws: Draws, canvas: int) -> Plan:
    """Arrange draws.

    Args:
        config: of the views.
        draws: of 2B views.
        canvas: side in pixels of the square that crops are cut from.
    """
    hue_later = (np.argmax(draws.order == _HUE, axis=1)[:, None] > np.arange(BLENDS)) & draws.jitter[:, None]
    columns = {
        "axes": crop_axes(draws.box, draws.flip, config.size, canvas).reshape(len(draws), -1),
        "flip": draws.flip[:, None],
        "sigma": draws.sigma[:, None],
        "blur exponent": -0.5 / draws.sigma[:, None] ** 2,
        "factors": draws.factors,
        "cutout centre": draws.cutout_centre,
        "noise std": draws.noise_std[:, None],
        "blends": _blends(config, draws),
        "hue shifts": 6 * np.where(draws.jitter, draws.factors[:, _HUE], 0)[:, None] - _RED_GREEN_BLUE,
        "luminance": np.broadcast_to(LUMINANCE[config.reference], (len(draws), 3)),
        "hue later": hue_later,
        "grayscale": draws.grayscale[:, None],
    }
    numbers = np.zeros((len(draws), _WIDTH), dtype=np.float32)
    for name, values in columns.items():
        numbers[:, _COLUMNS[name]] = values
    jitter = np.flatnonzero(draws.jitter)
    jitter = jitter[np.argsort(-hue_later[jitter].sum(axis=1), kind="stable")]
    rows = {
        "jitter": jitter,
        "grayscale": _rows(draws.grayscale),
        "shrink": _rows((draws.box[:, 2:] * canvas > config.size + 1e-6).any(axis=1)),
        **_blur_rows(config, draws),
        **{f"turn {turns}": _rows(draws.quarter_turns == turns) for turns in (1, 2, 3)},
        "sobel": _rows(draws.sobel),
        "noise": _rows(draws.noise),
        "noise key": draws.noise_key[draws.noise],
        "cutout": _rows(draws.cutout),
    }
    if config.engine == "kornia":
        for stage in range(len(COLOUR_OPERATIONS)):
            for operation, name in enumerate(COLOUR_OPERATIONS):
                rows[f"{name} {stage}"] = _rows(draws.jitter & (draws.order[:, stage] == operation))
    packed = torch.from_numpy(np.concatenate([*rows.values(), numbers.view(np.int64).ravel()]))
    lengths = {name: len(of_name) for name, of_name in rows.items()}
    return _unpack(packed, lengths, len(draws), tuple(int(count) for count in hue_later.sum(axis=0)))


def blur_radius(size: int) -> int:
    """Of the kernel, in pixels of a view of that side: the reference's is half of a tenth of it."""
    return size // 10 // 2


def narrow_radius(size: int) -> int:
    """Of the kernel for small sigmas; where few taps are to be saved, one kernel serves all, and this is 0."""
    radius = blur_radius(size)
    return radius // 2 if radius >= 8 else 0


def _blends(config: ViewsConfig, draws: Draws) -> npt.NDArray[np.float64]:
    """(2B, 3 x 4) the numbers of the first, second and third blend of each view.

    Of each: factor f; 1 - f for saturation, else 0; 1 - f for contrast, else 0; the least that factors are limited to.
    By the paper's code the second is 1 for saturation, for which alone there is a limit, worked out at each pixel.
    """
    operation = draws.order[draws.order != _HUE].reshape(-1, BLENDS)
    factor = np.where(draws.jitter[:, None], np.take_along_axis(draws.factors, operation, axis=1), 1.0)
    paper = config.reference == "paper"
    saturation, contrast = operation == _SATURATION, operation == _CONTRAST
    gray_share, mean_share = saturation * (1.0 if paper else 1 - factor), contrast * (1 - factor)
    no_limit = np.where(saturation, 0.0, NO_LIMIT)
    return np.stack([factor, gray_share, mean_share, no_limit], axis=2).reshape(-1, BLENDS * len(NO_BLEND))


def _blur_rows(config: ViewsConfig, draws: Draws) -> dict[str, Rows]:
    """Rows to blur, apart by the kernel that their sigma needs."""
    blurred = draws.blur & (blur_radius(config.size) > 0)
    narrow: Bools = draws.sigma * _SIGMAS <= narrow_radius(config.size)
    return {"blur narrow": _rows(blurred & narrow), "blur wide": _rows(blurred & ~narrow)}


def _rows(mask: Bools) -> Rows:
    return np.flatnonzero(mask)


def _unpack(packed: Tensor, lengths: dict[str, int], views: int, hue_later: tuple[int, ...]) -> Plan:
    """Rows first, as many of each name as there are, then the numbers."""
    *rows, numbers = packed.split_with_sizes([*lengths.values(), views * _WIDTH // 2])
    return Plan(
        numbers=numbers.view(torch.float32).view(views, _WIDTH),
        rows=dict(zip(lengths, rows, strict=True)),
        hue_later=hue_later,
        packed=packed,
    )
