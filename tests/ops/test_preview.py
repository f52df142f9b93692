import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_shards import tiny_image, tiny_shards

from ops.preview import PreviewConfig, main
from ops.preview_images import first_batch, whole_images
from ops.preview_layout import Sheet, write_png
from ops.preview_views import Row, contact_sheet, make_rows
from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import SplitIndex, open_split
from pipelines.plan import plan_views
from train.arguments import to_yaml
from train.config import PretrainConfig
from train.errors import RunError

Preview = Callable[..., None]
CROP_ONLY = ViewsConfig(
    size=32, flip_probability=0.5, jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0
)


@pytest.fixture
def preview(monkeypatch: pytest.MonkeyPatch) -> Preview:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["preview", *map(str, arguments)])
        main()

    return run


def config(data: Path, **fields: Any) -> PreviewConfig:
    views = fields.pop("views", ViewsConfig(size=32))
    return PreviewConfig(data=DataConfig(dir=str(data), canvas=32), views=views, **fields)


def rows_of(settings: PreviewConfig, split: SplitIndex) -> list[Row]:
    images = whole_images(split, settings.data, settings.views, settings.images, settings.seed)
    return make_rows(split, settings.data, settings.views, images, epochs=settings.epochs, seed=settings.seed)


def test_the_sheet_has_a_row_per_image_and_a_pair_of_tiles_per_epoch(
    shards: Path, tmp_path: Path, preview: Preview
) -> None:
    run = tmp_path / "config.yaml"
    run.write_text(to_yaml(PretrainConfig(data=DataConfig(canvas=32), views=ViewsConfig(size=32))))
    sizes = []
    for images, epochs in ((3, 2), (4, 2), (3, 3)):
        output = tmp_path / "new" / "folder" / f"{images}-{epochs}.png"
        flags = ["--config", run, "--data.dir", shards, "--output", output, "--images", images, "--epochs", epochs]
        preview(*flags, "--seed", 7)
        with Image.open(output) as sheet:
            sizes.append(sheet.size)
            assert sheet.format == "PNG"
            assert len(set(sheet.get_flattened_data())) > 1000
    assert sizes[1][0] == sizes[0][0]
    assert sizes[1][1] - sizes[0][1] >= 96
    assert sizes[2][0] - sizes[0][0] >= 2 * 96
    assert sizes[2][1] == sizes[0][1]
    assert sorted(path.name for path in output.parent.iterdir()) == ["3-2.png", "3-3.png", "4-2.png"]


def test_the_views_are_those_of_training(shards: Path) -> None:
    settings = config(shards, images=8, epochs=2, seed=5)
    split = open_split(shards, "train")
    rows = rows_of(settings, split)
    share = Share(global_batch=64, seed=5, last_step=2)
    batches = training_batches(split, settings.data, settings.views, share, torch.device("cpu"))
    for epoch, batch in enumerate(batches):  # of the whole split, so that every image is met in every epoch
        made = TwoViews(settings.views)(batch.canvas, plan_views(settings.views, batch.draws, 32))
        pixels = (made * 255).round().byte().permute(0, 2, 3, 1).numpy()
        place = {sample: i for i, sample in enumerate(batch.sample_id.tolist())}
        for row in rows:
            i = place[int(row.details[0].split()[1])]
            np.testing.assert_array_equal(row.views[epoch], pixels[[i, i + 64]])


def test_the_box_drawn_is_the_crop_taken_and_mirrored_is_what_is_said(shards: Path) -> None:
    rows = rows_of(config(shards, images=16, views=CROP_ONLY, epochs=1), open_split(shards, "train"))
    mirrored = []
    for row in rows:
        for view in range(2):
            top, left, height, width = (row.boxes[view] * 32).round().astype(int)
            crop = Image.fromarray(row.canvas[top : top + height, left : left + width])
            resized = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR))
            expected = resized[:, ::-1] if row.mirrored[view] else resized
            assert np.abs(expected.astype(int) - row.views[0, view]).max() <= 2
            mirrored.append(row.mirrored[view])
    assert {True, False} == set(mirrored)


def test_crops_cut_from_the_source_are_shown_beside_the_whole_image(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(CROP_ONLY, flip_probability=0.0)
    split, cut = open_split(shards, "train"), torch.arange(4 * 3 * 32 * 32).view(4, 3, 32, 32).to(torch.uint8)

    def loaded(split: SplitIndex, data: DataConfig, views: ViewsConfig, count: int, seed: int) -> Batch:
        return replace(first_batch(split, data, replace(views, crop="canvas"), count, seed), canvas=cut)

    monkeypatch.setattr("ops.preview_views.first_batch", loaded)
    of_canvas = rows_of(config(shards, images=2, views=plain), split)
    of_source = rows_of(config(shards, images=2, views=replace(plain, crop="source")), split)
    for i, (row, other) in enumerate(zip(of_source, of_canvas, strict=True)):
        np.testing.assert_array_equal(row.canvas, other.canvas)
        np.testing.assert_array_equal(row.boxes, other.boxes)
        np.testing.assert_array_equal(row.views, cut[[i, i + 2]].permute(0, 2, 3, 1)[None])


@pytest.mark.parametrize(
    ("views", "told"),
    [
        (ViewsConfig(size=32), ""),
        (ViewsConfig(size=32, first_view_only=("jitter", "crop")), "View 2 is spared jitter, crop (first_view_only)."),
    ],
)
def test_the_sheet_tells_what_view_2_is_spared(
    shards: Path, monkeypatch: pytest.MonkeyPatch, views: ViewsConfig, told: str
) -> None:
    texts: list[str] = []
    monkeypatch.setattr(Sheet, "small_text", lambda _sheet, _place, text, *_: texts.append(text))
    contact_sheet(views, rows_of(config(shards, images=1, epochs=1, views=views), open_split(shards, "train")))
    assert " ".join(texts).startswith(f"{told} canvas 32 px of epoch 0".strip())


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_png(Image.new("RGB", (1, 1)), tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_a_row_names_class_sample_and_size_of_the_original(tmp_path: Path) -> None:
    data = tiny_shards(tmp_path, 2, 2, encoding="png", size=lambda _: (20, 30))
    rows = rows_of(config(data, images=4), open_split(data, "train"))
    for row in rows:
        sample = int(row.details[0].split()[1])
        assert row.title == f"class{sample % 2}"
        assert row.details[1] == "30 x 20 px"
        mean = tiny_image("train", sample, sample % 2, 20, 30).mean(axis=(0, 1))
        np.testing.assert_allclose(row.canvas.mean(axis=(0, 1)), mean, atol=3)


def test_unlabelled_data_can_be_seen(tmp_path: Path, preview: Preview) -> None:
    data = tiny_shards(tmp_path / "data", labelled=False)
    preview("--data.dir", data, "--output", tmp_path / "sheet.png", "--images", 2, "--views.size", 224, "--epochs", 1)
    assert (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "data.dir: no data set named"),
        (["--data.dir", "nowhere"], "is not a data set directory"),
        (["--data.dir", "SHARDS", "--images", "65"], "images = 65: split train has 64"),
        (["--images", "0"], "images"),
        (["--data.dir", "SHARDS", "--images", "1", "--output", "/dev/null/sheet.png"], "cannot be written"),
        (["--data.dir", "SHARDS", "--images", "1", "--output", "", "--operations", "true"], "names no file"),
        (["--data.dir", "SHARDS", "--operations", "brightness"], "operations"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    shards: Path, preview: Preview, capfd: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        preview(*(shards if flag == "SHARDS" else flag for flag in flags))
    assert exit_.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("preview: error: ")
    assert told in line
