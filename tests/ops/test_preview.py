import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_shards import tiny_image, tiny_shards

from ops.preview import PreviewConfig, main, make_rows
from pipelines.augment import TwoViews
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Share, training_batches
from pipelines.manifest import open_split
from train.arguments import to_yaml
from train.config import PretrainConfig

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
    rows = make_rows(settings, split)
    share = Share(global_batch=64, seed=5, last_step=2)
    batches = training_batches(split, settings.data, settings.views, share, torch.device("cpu"))
    for epoch, batch in enumerate(batches):  # of the whole split, so that every image is met in every epoch
        pixels = (TwoViews(settings.views)(batch.canvas, batch.draws) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        place = {sample: i for i, sample in enumerate(batch.sample_id.tolist())}
        for row in rows:
            i = place[int(row.details.split()[1])]
            np.testing.assert_array_equal(row.views[epoch], pixels[[i, i + 64]])


def test_the_box_drawn_is_the_crop_taken_and_mirrored_is_what_is_said(shards: Path) -> None:
    rows = make_rows(config(shards, images=16, views=CROP_ONLY, epochs=1), open_split(shards, "train"))
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


def test_a_row_names_class_sample_and_size_of_the_original(tmp_path: Path) -> None:
    data = tiny_shards(tmp_path, 2, 2, encoding="png", size=lambda _: (20, 30))
    rows = make_rows(config(data, images=4), open_split(data, "train"))
    for row in rows:
        sample = int(row.details.split()[1])
        assert row.title == f"class{sample % 2}"
        assert "30 x 20 px" in row.details
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
