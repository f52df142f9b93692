"""Draw what training will see, before it costs anything: contact sheets of images, crops, views and operations.

    python -m ops.preview --config train/configs/cifar10.yaml --data.dir DIR --output sheet.png
    python -m ops.preview --config train/configs/cifar10.yaml --data.dir DIR --output sheet.png --operations true

The loader, the draws and the views are those of training. `--help` lists every field; any of a run's may be given.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse.typing import PositiveInt

from ops.preview_layout import write_png
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex, open_split
from train.arguments import parse
from train.config import PretrainConfig
from train.distributed import fail
from train.errors import RunError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class PreviewConfig(PretrainConfig):
    """A contact sheet of a run's views; the run's own fields may be given, too."""

    output: str = "preview.png"
    """PNG file to write."""
    images: PositiveInt = 8
    """Rows: the first images of epoch 0."""
    epochs: PositiveInt = 3
    """Pairs of views per image, one for each epoch from 0."""
    operations: bool = False
    """Write beside it a sheet for each operation of the views, over the strengths that the configuration can draw, and
    one of all on the first image: preview-brightness.png and so on, and preview-operations.png."""


def main() -> None:
    """Refuse what is wrong before torch is imported, then draw."""
    try:
        config = parse(PreviewConfig, sys.argv[1:], prog="preview")
        split = open_data(config)
        output, written = Path(config.output), 0
        for name, sheet in draw_sheets(config, split):
            write_png(sheet, output.with_name(f"{output.stem}-{name}{output.suffix}") if name else output)
            written += 1
    except (RunError, DataError) as error:
        fail("preview", error, show=True)
    beside = f", and {written - 1} sheets of its operations beside it" if config.operations else ""
    print(f"{config.images} images of {split.manifest.name}: {output}{beside}")


def open_data(config: PreviewConfig) -> SplitIndex:
    """Open the train split.

    Raises:
        RunError: no data set was named, or it has fewer images than were asked for.
        DataError: the directory does not hold what its manifest says.
    """
    if not config.data.dir:
        raise RunError("data.dir: no data set named; build one with `python -m pipelines.build_shards`")
    split = open_split(config.data.dir, "train")
    if len(split) < config.images:
        raise RunError(f"images = {config.images}: split train has {len(split)}")
    return split


def draw_sheets(config: PreviewConfig, split: SplitIndex) -> Iterator[tuple[str, "Image.Image"]]:
    """Yield the contact sheet, without a name, then those of the operations, if they are wanted."""
    from ops.preview_images import whole_images
    from ops.preview_operations import operation_ranges
    from ops.preview_strips import all_operations, operation_sheet, views_over
    from ops.preview_views import contact_sheet, make_rows

    images = whole_images(split, config.data, config.views, config.images, config.seed)
    rows = make_rows(split, config.data, config.views, images, epochs=config.epochs, seed=config.seed)
    yield "", contact_sheet(config.views, rows)
    if config.operations:
        operations = operation_ranges(config.views, images.height, images.width)
        views = [views_over(config.views, images, operation) for operation in operations]
        for operation, shown in zip(operations, views, strict=True):
            yield operation.name, operation_sheet(config.views, images, operation, shown)
        yield "operations", all_operations(config.views, images, operations, views)


if __name__ == "__main__":
    main()
