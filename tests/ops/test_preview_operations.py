import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ops.preview import main
from ops.preview_images import Images, canvas_pixels, host_pixels, whole_images
from ops.preview_layout import GAP, LABEL_WIDTH, MARGIN, Sheet
from ops.preview_operations import OperationRange, operation_ranges
from ops.preview_strips import all_operations, described, operation_sheet, views_at, views_over
from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.draws import draw_views
from pipelines.manifest import open_split
from pipelines.plan import plan_views

NAMES = [
    "crop",
    "flip",
    "rotation",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "grayscale",
    "blur",
    "sobel",
    "noise",
    "cutout",
]
VIEWS = ViewsConfig(size=32)
TILE = 96


@pytest.fixture(scope="module")
def images(shards: Path) -> Images:
    return whole_images(open_split(shards, "train"), DataConfig(dir=str(shards), canvas=32), VIEWS, 3, 0)


def ranges(views: ViewsConfig, images: Images) -> dict[str, OperationRange]:
    return {operation.name: operation for operation in operation_ranges(views, images.height, images.width)}


def labels(operation: OperationRange) -> list[str]:
    return [strength.label for strength in operation.strengths]


def tile(sheet: Image.Image, row: int, column: int, rows: int) -> npt.NDArray[np.uint8]:
    """The view's own pixels: rows are counted from the bottom, as the heading's height varies."""
    left = MARGIN + LABEL_WIDTH + column * (TILE + GAP)
    top = sheet.height - MARGIN + GAP - (rows - row) * (TILE + GAP)
    enlarged = np.asarray(sheet.crop((left, top, left + TILE, top + TILE)))
    view = enlarged[:: TILE // 32, :: TILE // 32]
    np.testing.assert_array_equal(enlarged, view.repeat(TILE // 32, axis=0).repeat(TILE // 32, axis=1))
    return view


def test_a_sheet_per_operation_and_one_of_all_are_written_beside_the_contact_sheet(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--data.dir", str(shards), "--data.canvas", "32", "--views.size", "32", "--images", "2"]
    output = tmp_path / "new" / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["preview", *arguments, "--output", str(output), "--operations", "true"])
    main()
    written = {path.name for path in output.parent.iterdir()}
    assert written == {"sheet.png", "sheet-operations.png", *(f"sheet-{name}.png" for name in NAMES)}
    for path in output.parent.iterdir():
        with Image.open(path) as sheet:
            assert sheet.format == "PNG"
            sheet.load()


def test_strengths_run_from_the_lowest_to_the_highest_that_can_be_drawn(images: Images) -> None:
    paper = ranges(VIEWS, images)
    assert list(paper) == NAMES
    assert labels(paper["brightness"]) == ["0.2", "0.4", "0.6", "0.8", "1", "1.2", "1.4", "1.6", "1.8"]
    assert labels(paper["hue"]) == ["-0.2", "-0.15", "-0.1", "-0.05", "0", "0.05", "0.1", "0.15", "0.2"]
    assert labels(paper["blur"]) == ["off", "0.1", "0.48", "0.86", "1.24", "1.62", "2"]
    assert labels(paper["noise"]) == ["0", "0.05", "0.1", "0.15", "0.2"]
    assert labels(paper["crop"]) == ["whole", *3 * ["0.1", "0.55", "1"]]  # the paper's sampler accepts no less
    torchvisions = ranges(ViewsConfig(size=32, reference="torchvision"), images)
    assert labels(torchvisions["crop"]) == ["whole", *3 * ["0.08", "0.54", "1"]]
    assert labels(paper["rotation"]) == ["0°", "90°", "180°", "270°"]
    other = ranges(
        ViewsConfig(size=32, jitter_strength=0.5, noise_max=0.4, crop_area_min=0.3, crop_area_max=0.3), images
    )
    assert labels(other["contrast"])[:: len(labels(other["contrast"])) - 1] == ["0.6", "1.4"]
    assert labels(other["noise"])[-1] == "0.4"
    assert labels(other["crop"]) == ["whole", "0.3", "0.3", "0.3"]
    assert labels(ranges(ViewsConfig(size=32, jitter_strength=0), images)["saturation"]) == ["1"]


def test_drawn_strengths_lie_within_those_shown(images: Images) -> None:
    views = ViewsConfig(size=32, jitter_strength=0.7, noise_probability=1.0, noise_max=0.3)
    drawn = draw_views(views, np.arange(500), np.full(500, 40), np.full(500, 30), seed=3, epoch=0)
    shown = ranges(views, images)
    for name, values in [
        *zip(("brightness", "contrast", "saturation", "hue"), drawn.factors.T, strict=True),
        ("blur", drawn.sigma),
        ("noise", drawn.noise_std),
    ]:
        lowest, highest = (float(labels(shown[name])[place]) for place in (1 if name == "blur" else 0, -1))
        assert lowest - 1e-9 <= values.min() < lowest + 0.05 * (highest - lowest), name
        assert highest - 0.05 * (highest - lowest) < values.max() <= highest + 1e-9, name


@pytest.mark.parametrize(
    ("name", "column", "fields"),
    [
        ("brightness", 1, {"jitter": True, "factors": (0.4, 1.0, 1.0, 0.0)}),
        ("hue", 8, {"jitter": True, "factors": (1.0, 1.0, 1.0, 0.2)}),
        ("blur", 4, {"blur": True, "sigma": 1.24}),
        ("rotation", 3, {"quarter_turns": 3}),
        ("cutout", 2, {"cutout": True, "cutout_centre": (0.25, 0.25)}),
    ],
)
@pytest.mark.parametrize("engine", ["lean", "kornia"])
def test_a_tile_is_the_view_at_its_strength(
    images: Images, name: str, column: int, fields: dict[str, Any], engine: Any
) -> None:
    views = replace(VIEWS, engine=engine, jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0)
    operation = ranges(views, images)[name]
    sheet = operation_sheet(views, images, operation, views_over(views, images, operation))
    draws = draw_views(views, images.ids, images.height, images.width, seed=1, epoch=0)
    fields = {"box": (0.0, 0.0, 1.0, 1.0), "flip": False, "order": range(4), **fields}
    wanted = {field: np.broadcast_to(value, getattr(draws, field).shape) for field, value in fields.items()}
    expected = host_pixels(TwoViews(views)(images.canvas, plan_views(views, replace(draws, **wanted), 32)))
    for row in range(3):
        np.testing.assert_array_equal(tile(sheet, row, column, 3), expected[row])


def test_a_crop_keeps_area_and_aspect_of_the_original_or_shrinks_to_fit(images: Images) -> None:
    height, width = np.array([100, 400, 300]), np.array([400, 100, 400])
    crop = next(iter(operation_ranges(VIEWS, height, width)))
    for strength in crop.strengths[1:]:
        top, left, tall, wide = np.moveaxis(np.broadcast_to(strength.fields["box"], (6, 4)), 1, 0)
        assert (np.stack([top, left, 1 - top - tall, 1 - left - wide]) >= 0).all()
        aspect = {"3:4": 3 / 4, "1:1": 1, "4:3": 4 / 3}[strength.note]
        np.testing.assert_allclose((wide * np.tile(width, 2)) / (tall * np.tile(height, 2)), aspect, rtol=0.02)
        fits = (tall < 1) & (wide < 1)
        np.testing.assert_allclose((tall * wide)[fits], float(strength.label), rtol=0.02)
        assert (tall * wide <= float(strength.label) * 1.02).all()
        assert fits.any() or strength.label != "0.08"


@pytest.mark.parametrize("crop", ["canvas", "source"])
def test_each_operation_has_one_neutral_column_and_it_is_the_plain_image(images: Images, crop: Any) -> None:
    views = replace(VIEWS, crop=crop)
    for operation in operation_ranges(views, images.height, images.width):
        (neutral,) = [strength for strength in operation.strengths if strength.note == "unchanged"]
        np.testing.assert_array_equal(views_at(views, images, neutral), canvas_pixels(images.canvas))


def test_every_other_column_differs_from_the_plain_image(images: Images) -> None:
    for operation in operation_ranges(VIEWS, images.height, images.width):
        for strength in operation.strengths:
            same = (views_at(VIEWS, images, strength) == canvas_pixels(images.canvas)).all()
            whole = strength.label == "1" and strength.note == "1:1"  # of a square image
            invisible = operation.name == "blur" and strength.label == "0.1"
            assert same == (strength.note == "unchanged" or whole or invisible), (operation.name, strength.label)


def test_every_column_is_labelled(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    write = Sheet.text

    def record(sheet: Sheet, place: tuple[int, int], text: str, width: int) -> None:
        texts.append(text)
        assert place[0] + width <= sheet.image.width
        write(sheet, place, text, width)

    monkeypatch.setattr(Sheet, "text", record)
    operations = operation_ranges(VIEWS, images.height, images.width)
    shown = [views_over(VIEWS, images, operation) for operation in operations]
    every: list[str] = []
    for operation, views in zip(operations, shown, strict=True):
        texts.clear()
        operation_sheet(VIEWS, images, operation, views)
        assert sorted(texts) == sorted([*images.titles, *labels(operation)])
        every += [operation.name, *labels(operation)]
    texts.clear()
    all_operations(VIEWS, images, operations, shown)
    assert sorted(texts) == sorted(every)


def test_a_heading_tells_what_the_second_view_is_spared_and_what_is_never_drawn(images: Images) -> None:
    views = replace(VIEWS, first_view_only=("jitter",))
    told = {name: described(views, operation) for name, operation in ranges(views, images).items()}
    jitter = "Columns: factor. Part of the jitter, which is drawn with probability 0.8 for the first view only."
    assert told["brightness"] == jitter
    assert told["grayscale"] == "Drawn with probability 0.2 for each view."
    assert told["sobel"] == "Drawn with probability 0 for each view: this configuration never uses it."
