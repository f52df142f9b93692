"""A rectangle of a picture, in pixels from its upper left corner, in which axes can be put."""

from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Card:
    """Of a figure whose size in pixels is that of its page."""

    figure: Figure
    left: float
    top: float
    width: float
    height: float

    def within(self, left: float, top: float, right: float, bottom: float) -> "Card":
        """What remains if so many pixels are left out at each side."""
        width, height = self.width - left - right, self.height - top - bottom
        return replace(self, left=self.left + left, top=self.top + top, width=width, height=height)

    def axes(self, left: float = 0, top: float = 0, right: float = 0, bottom: float = 0) -> Axes:
        """Axes without frame, but for what is left out at each side."""
        part = self.within(left, top, right, bottom)
        page_width, page_height = self.figure.get_size_inches() * self.figure.dpi
        below = page_height - part.top - part.height
        place = (part.left / page_width, below / page_height, part.width / page_width, part.height / page_height)
        axes = self.figure.add_axes(place)
        axes.set_axis_off()
        return axes
