"""Our builder beside the least that a builder could do, and its memory: `python -m ops.bench builder --cifar DIR`.

The least is: read each image, decode it to its last pixel, write its bytes into a tar. Ours also shuffles, checksums,
indexes, gathers statistics and can be resumed. Both read one tar and write to memory, so that no disk is waited for, in
one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse.typing import PositiveInt

from ops.bench.building import write_archive
from ops.bench.measure import BenchConfig, Contestant, compare, measure
from ops.bench.prepared import encoded_images, textures
from ops.bench.tables import machine, show
from pipelines.errors import DataError
from pipelines.manifest import open_split
from train.arguments import parse
from train.distributed import fail
from train.errors import RunError

_WARM_UP_IMAGES = 1_000


@dataclass(frozen=True, kw_only=True)
class BuilderBenchConfig(BenchConfig):
    """Which images, and how they are measured. A timed section is at least one whole build."""

    cifar: str = ""
    """Data set directory of JPEGs, whose images are built again; procedural textures if empty."""
    work: str = "data/bench"
    """Directory in which textures are kept."""
    scratch: str = "/dev/shm"  # noqa: S108  # a new directory in it
    """Where source and outputs lie meanwhile: memory, so that no disk is waited for."""
    few: PositiveInt = 10_000
    """Images of the smaller build whose memory is measured."""
    many: PositiveInt = 50_000
    """Images of the larger build, whose memory and speed are measured."""


def main(arguments: Sequence[str]) -> None:
    """Measure, and print how ours stands to the bare work, and its memory."""
    try:
        config = parse(BuilderBenchConfig, arguments, prog="bench builder")
        show({"machine": machine(), **builds(config)}, config)
    except (RunError, DataError) as error:
        fail("bench builder", error, show=True)


def builds(config: BuilderBenchConfig) -> dict[str, Any]:
    """What was measured.

    Returns:
        `sections` as `show` takes them, and `peak_rss_bytes` of ours by number of images.
    """
    shards = Path(config.cifar) if config.cifar else textures(Path(config.work).resolve())
    images = [data for data, _ in encoded_images(open_split(shards, "train"))]
    with TemporaryDirectory(dir=config.scratch) as directory:
        few, many, small = (Path(directory) / f"{name}.tar" for name in ("few", "many", "small"))
        for path, count in ((few, config.few), (many, config.many), (small, _WARM_UP_IMAGES)):
            write_archive(images, path, count)
        del images
        options = {"small": str(small), "directory": directory}
        ours, bare = (
            Contestant(
                name=name,
                call=f"ops.bench.building:{function}",
                options={**options, "source": str(many)},
                wanted_ratio=wanted,
            )
            for name, function, wanted in (("ours", "ours", None), ("bare decode and write", "bare", 0.8))
        )
        once = replace(config, warm_up_seconds=0.0)
        section = compare([ours, bare], once)
        less = replace(ours, options={**options, "source": str(few)})
        (smaller,) = measure([less], replace(once, repeats=1)).values()
    report: dict[str, Any] = {"sections": {f"{config.many:,} images built by one process": section}}
    runs = smaller.kept + smaller.rejected
    if not runs or "peak_rss_bytes" not in section["ours"]:
        return report
    peaks = {config.few: runs[0].peak_rss_bytes, config.many: section["ours"]["peak_rss_bytes"]}
    line = ", ".join(f"{peak / 1e6:,.1f} MB for {count:,} images" for count, peak in peaks.items())
    ratio = peaks[config.many] / peaks[config.few]
    report["sections"]["Peak memory of ours"] = f"{line}: {ratio:.2f} times as much"
    return {**report, "peak_rss_bytes": {str(count): peak for count, peak in peaks.items()}}
