"""The script that embeds a folder, as a user starts it."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_encoders import save_random_encoder
from tiny_shards import tiny_image, tiny_shards

from eval.features import fixed_views
from model.config import EncoderConfig
from model.description import weights_sha256
from model.export import load_encoder
from model.normalised import NormalisedEncoder
from pipelines.config import DataConfig
from pipelines.manifest import open_split

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "embed_folder.py"
CIFAR = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)

Embed = Callable[..., tuple[int, str, str]]
"""Encoder, folder, output and flags -> exit status and what was printed to stdout and stderr."""


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    save_random_encoder(tmp_path / "encoder", CIFAR)
    return tmp_path / "encoder"


@pytest.fixture
def embed(capsys: pytest.CaptureFixture[str]) -> Embed:
    """Runs the command in this process: starting Python and torch takes seconds."""
    spec = importlib.util.spec_from_file_location("embed_folder", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(encoder: Path, folder: Path, output: Path, *flags: str) -> tuple[int, str, str]:
        words = [str(encoder), str(folder), "--output", str(output), "--workers", "0", *flags]
        status = script.main(words)
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def test_embeddings_are_the_features_of_evaluation(encoder: Path, tmp_path: Path, embed: Embed) -> None:
    square = tiny_shards(tmp_path / "square", images_per_class=3, classes=2, side=32)
    split = open_split(str(square), "test")
    module, description = load_encoder(encoder)
    views = fixed_views(split, DataConfig(dir=str(square), canvas=32), 32, batch=4, device=torch.device("cpu"))
    with torch.no_grad():
        expected = torch.cat([NormalisedEncoder(module, description)(some) for some in views])
    folder = tmp_path / "images" / "below"
    folder.mkdir(parents=True)
    for i in range(6):
        Image.fromarray(tiny_image("test", i, i % 2, 32, 32)).save(folder / f"{i}.PNG")
    done = embed(encoder, tmp_path / "images", tmp_path / "out.npz", "--batch", "4")
    assert done[:2] == (0, f"{tmp_path / 'out.npz'}: 6 embeddings\n")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as table:
        assert list(table["path"]) == [f"below/{i}.PNG" for i in range(6)]
        assert str(table["encoder_weights_sha256"]) == weights_sha256(encoder)
        torch.testing.assert_close(torch.from_numpy(table["embedding"]), expected, rtol=1e-5, atol=1e-5)


def test_unreadable_images_are_named_counted_and_left_out(encoder: Path, tmp_path: Path, embed: Embed) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    folder = tmp_path / "images"
    folder.mkdir()
    image = Image.fromarray(tiny_image("test", 0, 0, 40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    image.rotate(90, expand=True).save(folder / "turned.png", exif=exif)
    image.save(folder / "upright.png")
    image.convert("L").save(folder / "gray.webp")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "cut.png").write_bytes((folder / "upright.png").read_bytes()[:900])
    (folder / "notes.txt").touch()
    done = embed(encoder, folder, tmp_path / "new" / "out.parquet")
    assert done[:2] == (0, f"{tmp_path / 'new' / 'out.parquet'}: 3 embeddings; 2 images left out\n")
    for name in ("broken.jpg", "cut.png"):
        assert sum(f"{folder / name}: left out (" in line for line in done[2].splitlines()) == 1
    table = parquet.read_table(tmp_path / "new" / "out.parquet")
    assert table["path"].to_pylist() == ["gray.webp", "turned.png", "upright.png"]
    h = np.array(table["embedding"].to_pylist())
    assert h.shape == (3, 32)
    assert np.array_equal(h[1], h[2])
    assert not np.allclose(h[0], h[2], rtol=1e-3)
    assert table.schema.metadata[b"encoder_weights_sha256"].decode() == weights_sha256(encoder)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.parquet"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--output", "out.csv"], "must end in .parquet or .npz"),
        (["--batch", "0"], "--batch 0"),
        (["--device", "cuda"], "torch finds no CUDA device"),
    ],
)
def test_bad_flags_are_refused(encoder: Path, tmp_path: Path, embed: Embed, flags: list[str], told: str) -> None:
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    done = embed(encoder, tmp_path, tmp_path / "out.npz", *flags)
    assert (done[0], done[2].count("\n")) == (2, 1)
    assert told in done[2]


def test_without_images_or_encoder_nothing_is_left(encoder: Path, tmp_path: Path, embed: Embed) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    output = tmp_path / "out.npz"
    done = embed(encoder, folder, output)
    assert (done[0], f"{folder}: no images" in done[2].splitlines()[-1]) == (2, True)
    (folder / "broken.jpg").write_bytes(b"no image")
    done = embed(encoder, folder, output)
    assert (done[0], "none of its 1 images can be read" in done[2].splitlines()[-1]) == (2, True)
    done = embed(tmp_path / "none", folder, output)
    assert (done[0], "encoder.json: no such file" in done[2].splitlines()[-1]) == (2, True)
    output.touch()
    done = embed(encoder, folder, output)
    assert (done[0], "exists already" in done[2].splitlines()[-1]) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "images", "out.npz"]


@pytest.mark.slow
def test_processes_that_read_give_the_same_table(encoder: Path, tmp_path: Path, embed: Embed) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(9):
        Image.fromarray(tiny_image("test", i, 0, 33 + i, 40)).save(folder / f"{i}.png")
    assert embed(encoder, folder, tmp_path / "one.npz")[0] == 0
    words = [str(encoder), str(folder), "--output", str(tmp_path / "many.npz"), "--workers", "3", "--batch", "2"]
    subprocess.run([sys.executable, str(SCRIPT), *words], check=True, capture_output=True)
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "many.npz") as many:
        assert list(one["path"]) == list(many["path"])
        np.testing.assert_allclose(one["embedding"], many["embedding"], rtol=1e-5, atol=1e-6)
