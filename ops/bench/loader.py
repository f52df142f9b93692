"""Our loader beside others on the same images: `python -m ops.bench loader --cifar DIR --imagenet DIR`.

Every contestant delivers all images as RGB uint8 in whole batches (512 at 32 pixels, 64 at 256), from the page cache,
on one core. Ours shuffles the whole epoch and checks every image; others do what they do at their fastest: DALI's
reader and webdataset read in stored order, the rest shuffle without checks.

All decode to the same bits but FFCV, whose faster inverse transform is off by about one level. It is measured on the
JPEGs that it encodes itself (`re-encoded`) and on the bytes that all others read (`same bytes`), for which its writer
is given them as they are.

DALI, webdataset and torchvision come with the project. The others are in its extra `bench`; FFCV has to be compiled, on
Debian with

    apt-get install -y g++ pkg-config libturbojpeg0-dev libopencv-dev
    pip install -c constraints.txt -e '.[bench]'

or, so that the project's environment stays as it is, into one of their own, named by `--peer_python`:

    python3.11 -m venv peers
    peers/bin/pip install -c constraints.txt torch torchvision pillow simplejpeg litdata ffcv==1.0.2
    python -m ops.bench loader --peer_python peers/bin/python --cifar data/cifar10 --imagenet /raw/imagenet
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.bench.measure import BenchConfig, Contestant, compare
from ops.bench.prepared import Images, imagenet_canvases, prepare, textures
from ops.bench.tables import machine, show
from pipelines.errors import DataError
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

_SMALL_BATCH, _SMALL = 512, 32
_LARGE_BATCH, _LARGE = 64, 256


@dataclass(frozen=True, kw_only=True)
class LoaderBenchConfig(BenchConfig):
    """Which images, and how they are measured."""

    cifar: str = ""
    """Data set directory of 32x32 JPEGs; procedural textures if empty."""
    imagenet: str = ""
    """Directory with ImageNet's official files, read by `build_shards imagenet`; left out if empty."""
    work: str = "data/bench"
    """Directory in which the images are kept in every contestant's form."""
    peer_python: str = sys.executable
    """Interpreter in which FFCV, LitData and simplejpeg are installed."""
    only: str = ""
    """Measure beside ours only contestants whose names contain one of these words, separated by commas."""


def main(arguments: Sequence[str]) -> None:
    """Measure, and print how ours stands to each other contestant."""
    try:
        config = parse(LoaderBenchConfig, arguments, prog="bench loader")
        show({"machine": machine(), "sections": sections(config)}, config)
    except (RunError, DataError) as error:
        fail("bench loader", error, show=True)


def sections(config: LoaderBenchConfig) -> dict[str, Any]:
    """What was measured, by title."""
    work = Path(config.work).resolve()
    shards = Path(config.cifar).resolve() if config.cifar else textures(work)
    small = prepare(shards, work, _SMALL, config.peer_python, raw=True)
    title = f"{small.count:,} images of {_SMALL} pixels from {config.cifar or 'procedural textures'}"
    report: dict[str, Any] = {
        f"{title}: decoded": compare(_picked(small_decoded(small, config.peer_python), config.only), config),
        f"{title}: kept as pixels": compare(_picked(small_pixels(small, config.peer_python), config.only), config),
    }
    if not config.imagenet:
        report["ImageNet"] = "left out: name a directory of its files with --imagenet"
        return report
    shards = imagenet_canvases(Path(config.imagenet).resolve(), work, _LARGE)
    large = prepare(shards, work, _LARGE, config.peer_python, raw=False)
    title = f"{large.count:,} ImageNet files stored as {_LARGE}-pixel canvases: decoded"
    report[title] = compare(_picked(large_decoded(large, config.peer_python), config.only), config)
    return report


def small_decoded(images: Images, peer_python: str) -> list[Contestant]:
    """JPEGs of 32 pixels, ours first."""
    make = _Maker(images, _SMALL_BATCH, peer_python)
    return [
        make.ours("ours", "decoded"),
        make.dali(wanted_ratio=1.0),
        make.torchvision(wanted_ratio=1.5),
        make.webdataset(wanted_ratio=10.0),
        make.ffcv("FFCV, JPEG same bytes", "same"),
        make.ffcv("FFCV, JPEG re-encoded", "jpg"),
        make.decoding_limit(),
    ]


def small_pixels(images: Images, peer_python: str) -> list[Contestant]:
    """Pixels of 32-pixel images, ours first."""
    make = _Maker(images, _SMALL_BATCH, peer_python)
    limit = {"images": images.count, "batch": _SMALL_BATCH, "canvas": images.canvas}
    return [
        make.ours("ours, cache in memory", "cached", wanted_rate=3_000_000),
        make.ffcv("FFCV, raw", "raw"),
        make.contestant("limit: torch index_select", "limits:gathering", limit, ("torch",), sys.executable),
    ]


def large_decoded(images: Images, peer_python: str) -> list[Contestant]:
    """JPEGs of 256 pixels, ours first."""
    make = _Maker(images, _LARGE_BATCH, peer_python)
    return [
        make.ours("ours", "decoded"),
        make.decoding_limit(wanted_ratio=0.95),
        make.dali(),
        make.torchvision(wanted_ratio=1.0),
        make.litdata(wanted_ratio=1.0),
        make.webdataset(wanted_ratio=1.0),
        make.ffcv("FFCV, JPEG same bytes", "same", wanted_ratio=1.0),
        make.ffcv("FFCV, JPEG re-encoded", "jpg", wanted_ratio=1.0),
    ]


def _picked(contestants: list[Contestant], only: str) -> list[Contestant]:
    words = [word.strip().lower() for word in only.split(",")]
    return [contestants[0], *(one for one in contestants[1:] if any(word in one.name.lower() for word in words))]


@dataclass(frozen=True)
class _Maker:
    """Contestants on the same images in batches of the same size."""

    images: Images
    batch: int
    peer_python: str

    def contestant(
        self,
        name: str,
        function: str,
        options: dict[str, Any],
        distributions: tuple[str, ...],
        python: str,
        **wanted: float,
    ) -> Contestant:
        return Contestant(
            name=name,
            call=f"ops.bench.{function}",
            options=options,
            batch_bytes=self.batch * self.images.canvas**2 * 3,
            distributions=distributions,
            python=python,
            **wanted,
        )

    def ours(self, name: str, function: str, **wanted: float) -> Contestant:
        options = {"shards": str(self.images.shards), "batch": self.batch, "canvas": self.images.canvas}
        return self.contestant(name, f"ours:{function}", options, (), sys.executable, **wanted)

    def dali(self, **wanted: float) -> Contestant:
        options = {"shards": self.images.tars, "batch": self.batch}
        peer = ("nvidia-dali-cuda130",)
        return self.contestant("DALI webdataset reader", "peer_dali:decoded", options, peer, sys.executable, **wanted)

    def webdataset(self, **wanted: float) -> Contestant:
        options = {"shards": self.images.tars, "batch": self.batch}
        peer = ("webdataset", "pillow")
        return self.contestant("webdataset, PIL", "peer_webdataset:decoded", options, peer, sys.executable, **wanted)

    def torchvision(self, **wanted: float) -> Contestant:
        options = {"files": str(self.images.directory / "files"), "batch": self.batch}
        peer = ("torchvision",)
        name = "torchvision decode_jpeg"
        return self.contestant(name, "peer_torchvision:decoded", options, peer, sys.executable, **wanted)

    def litdata(self, **wanted: float) -> Contestant:
        options = {"chunks": str(self.images.directory / "litdata"), "batch": self.batch}
        return self.contestant("LitData", "peer_litdata:decoded", options, ("litdata",), self.peer_python, **wanted)

    def ffcv(self, name: str, mode: str, **wanted: float) -> Contestant:
        options = {"beton": str(self.images.directory / f"{mode}.beton"), "batch": self.batch}
        return self.contestant(name, "peer_ffcv:decoded", options, ("ffcv",), self.peer_python, **wanted)

    def decoding_limit(self, **wanted: float) -> Contestant:
        options = {
            "files": str(self.images.directory / "files"),
            "batch": self.batch,
            "canvas": self.images.canvas,
        }
        name = "limit: simplejpeg"
        return self.contestant(name, "limits:decoding", options, ("simplejpeg",), self.peer_python, **wanted)
