"""What every contestant makes views of, and what a whole batch of views is, for a bare standard library."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The images of a batch, and the views that are made of them."""

    title: str
    images: int
    """Of a batch; each gives two views."""
    canvas: int
    """Side of the square that crops are cut from, in pixels."""
    height: int
    """Of the original images in pixels; ours draws crops in their geometry."""
    width: int
    size: int
    """Side of a view in pixels."""
    strength: float
    """Of the colour jitter."""
    blur: float
    """Its probability."""

    @property
    def views(self) -> int:
        """Of a batch."""
        return 2 * self.images

    @property
    def canvas_bytes(self) -> int:
        """Of a batch, uint8."""
        return self.images * 3 * self.canvas**2

    @property
    def view_bytes(self) -> int:
        """Of a batch, float32."""
        return 4 * self.views * 3 * self.size**2


def count_views(parts: Iterable[Any], setting: Setting) -> int:
    """Number of views in arrays or tensors of them.

    Raises:
        ValueError: they are not float32, not of the setting's size or not two of each image.
    """
    count = 0
    for part in parts:
        if tuple(part.shape[1:]) != (3, setting.size, setting.size) or not str(part.dtype).endswith("float32"):
            raise ValueError(f"views of shape {tuple(part.shape)} and type {part.dtype}")
        count += len(part)
    if count != setting.views:
        raise ValueError(f"{count} views, not {setting.views}")
    return count
