"""Builds a data set directory from raw images, or verifies one.

    python -m pipelines.build_shards textures --output data/textures
    python -m pipelines.build_shards cifar10 --output data/cifar10
    python -m pipelines.build_shards folder --source images.tar.gz --output data/images
    python -m pipelines.build_shards verify data/images

The directory appears complete or not at all.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from pipelines import cifar10, textures
from pipelines.atomic_directory import publish, refuse_used, work_directory
from pipelines.errors import DataError
from pipelines.images import channel_statistics
from pipelines.manifest import Manifest, write_manifest
from pipelines.sources import Fault, Source, folder_source
from pipelines.split_writer import WrittenSplit, write_index, write_split
from pipelines.verify import verify

ERRORS_NAME = "errors.jsonl"
DEFAULT = "default %(default)s"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build, as asked on the command line."""

    kind: str
    """textures, cifar10 or folder."""
    output: Path
    source: Path | None = None
    seed: int = 0
    """Of the order, and of the textures themselves."""
    max_count: int = 5_000
    """Samples per shard."""
    max_size: int = 512_000_000
    """Bytes per shard."""
    on_error: str = "fail"
    """fail or skip: what to do about bad images."""
    name: str | None = None
    """Of the data set; by default that of the source."""
    train_count: int = textures.TRAIN_COUNT
    test_count: int = textures.TEST_COUNT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0; 1 if verification finds faults; 2 for bad input."""
    options = _parse(arguments)
    try:
        if isinstance(options, Path):
            return verify(options)
        build(options)
    except (DataError, OSError) as error:
        _say(f"error: {' '.join(str(error).splitlines())}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; nothing was written")
        return 130
    return 0


def build(options: BuildOptions) -> None:
    """Build a data set directory and print a summary.

    Raises:
        DataError: the output is in use, the source is refused, or images are bad and are not to be skipped.
    """
    output = options.output.resolve()
    refuse_used(output)
    log = output.with_name(f"{output.name}.{ERRORS_NAME}")
    log.unlink(missing_ok=True)  # of an earlier attempt
    with work_directory(output) as work:
        source = _open_source(options, work)
        _say(f"{source.name}: {len(source.items):,} images, {len(source.classes)} classes")
        finished = work / "finished"
        finished.mkdir()
        splits = [_write_split(source, split, finished, options) for split in source.splits]
        faults = source.faults + [fault for split in splits for fault in split.faults]
        if faults and options.on_error == "fail":
            _write_log(log, faults)
            raise DataError(f"{len(faults)} bad images, listed with reasons in {log}; mend them or use --on-error skip")
        if faults:
            _write_log(finished / ERRORS_NAME, faults)
        write_manifest(finished, _manifest(source, splits, finished, options))
        publish(finished, output)
    _print_summary(source, splits, output, len(faults))


def _open_source(options: BuildOptions, work: Path) -> Source:
    spool = work / "spool"
    if options.kind == "textures":
        return textures.textures_source(options.seed, options.train_count, options.test_count)
    if options.source is not None and options.kind == "folder":
        return folder_source(options.source, spool)
    if options.source is not None:
        if options.source.is_file() and not cifar10.is_official(options.source):
            _say(f"{options.source} is not one of the official archives (md5 differs); its structure is checked")
        return cifar10.cifar10_source(options.source, spool)
    archive = work / "cifar-10-binary.tar.gz"
    _say(f"downloading {cifar10.BINARY_URL}")
    cifar10.download(cifar10.BINARY_URL, cifar10.BINARY_MD5, archive)
    return cifar10.cifar10_source(archive, spool)


def _write_split(source: Source, name: str, directory: Path, options: BuildOptions) -> WrittenSplit:
    split = write_split(
        source, name, directory, seed=options.seed, max_count=options.max_count, max_size=options.max_size
    )
    _say(f"{name}: {split.samples:,} images in {len(split.shards)} shards, {split.seconds:.1f} s")
    return split


def _manifest(source: Source, splits: list[WrittenSplit], directory: Path, options: BuildOptions) -> Manifest:
    made = {"max_count": options.max_count, "max_size": options.max_size, "on_error": options.on_error}
    if options.kind == "textures":
        made |= {"train_count": options.train_count, "test_count": options.test_count}
    described = {split.name: write_index(split, directory) for split in splits}
    mean, std = channel_statistics(splits[0].histogram)  # splits[0] is train
    return Manifest(
        name=options.name or source.name,
        classes=source.classes,
        splits=described,
        statistics={"mean": mean, "std": std},
        made={"source": options.kind, "seed": options.seed, "options": made},
    )


def _write_log(path: Path, faults: list[Fault]) -> None:
    lines = [json.dumps(asdict(fault)) for fault in sorted(faults, key=lambda fault: fault.name)]
    path.write_text("\n".join([*lines, ""]))


def _say(message: str) -> None:
    print(f"build_shards: {message}", file=sys.stderr)


def _print_summary(source: Source, splits: list[WrittenSplit], output: Path, left_out: int) -> None:
    print(f"{'split':<8}{'samples':>12}{'classes':>9}{'shards':>8}{'bytes':>18}{'skipped':>9}{'s':>8}{'images/s':>10}")
    for split in splits:
        print(
            f"{split.name:<8}{split.samples:>12,}{len(source.classes):>9}{len(split.shards):>8}{split.bytes:>18,}"
            f"{len(split.faults):>9}{split.seconds:>8.1f}{split.samples / split.seconds:>10,.0f}"
        )
    print(f"{output}{f'; {left_out} files left out, see {ERRORS_NAME}' if left_out else ''}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        _say(f"error: {message}")
        sys.exit(2)


def _parse(arguments: Sequence[str] | None) -> BuildOptions | Path:
    """Options of a build, or the directory to verify."""
    parser = _Parser(prog="python -m pipelines.build_shards", description="Build or verify a data set directory.")
    commands = parser.add_subparsers(dest="kind", required=True, metavar="textures|cifar10|folder|verify")
    textures_parser = commands.add_parser("textures", help="procedural images, made from the seed")
    textures_parser.add_argument("--train-count", type=_positive, default=BuildOptions.train_count, help=DEFAULT)
    textures_parser.add_argument("--test-count", type=_positive, default=BuildOptions.test_count, help=DEFAULT)
    cifar_parser = commands.add_parser("cifar10", help="CIFAR-10, downloaded unless --source names it")
    cifar_parser.add_argument("--source", type=Path, help="an official archive, or the directory it was unpacked into")
    folder_parser = commands.add_parser("folder", help="images of your own")
    folder_parser.add_argument(
        "--source",
        type=Path,
        required=True,
        help="directory, tar, tar.gz or zip; in it train/ and test/ or val/ or neither; below, a directory per class, "
        "or unlabelled images",
    )
    for command in (textures_parser, cifar_parser, folder_parser):
        command.add_argument("--output", type=Path, required=True, help="directory to make")
        command.add_argument("--seed", type=_seed, default=BuildOptions.seed, help=f"of the order; {DEFAULT}")
        command.add_argument(
            "--max-count", type=_positive, default=BuildOptions.max_count, help=f"samples a shard; {DEFAULT}"
        )
        command.add_argument(
            "--max-size", type=_positive, default=BuildOptions.max_size, help=f"bytes a shard; {DEFAULT}"
        )
        command.add_argument("--on-error", choices=("fail", "skip"), default="fail", help=f"for bad images; {DEFAULT}")
        command.add_argument("--name", help="of the data set; by default that of the source")
    verify_parser = commands.add_parser("verify", help="check every byte of a data set directory")
    verify_parser.add_argument("directory", type=Path)
    options = parser.parse_args(arguments)
    return options.directory if options.kind == "verify" else BuildOptions(**vars(options))


def _positive(text: str) -> int:
    return _integer(text, 1, 2**63 - 1)


def _seed(text: str) -> int:
    return _integer(text, 0, 2**64 - 1)


def _integer(text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"'{text}' is not an integer in {least} ... {most}")
    return number


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was begun is removed
    sys.exit(main())
