"""Command-line arguments of the commands that build a data set directory."""

import argparse
import re
from pathlib import Path
from typing import Any

from pipelines.build.argument_types import available_cores, integer_within
from pipelines.build.build_directory import Part
from pipelines.build.build_options import BuildOptions
from pipelines.build.transfer_sets import LEFT_OUT, TRANSFER_SETS

DEFAULT = "default %(default)s"
RESIZE = re.compile(r"(short|canvas):([1-9]\d{0,3})")


def add_build_commands(commands: Any) -> None:
    """Add textures, cifar10, cifar100, folder, imagenet, torchvision, reshuffle and merge.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned. Each command sets `run`, which takes the parsed options
            and returns the exit status.
    """
    textures = commands.add_parser("textures", help="procedural images, made from the seed")
    textures.add_argument("--train-count", type=_positive, default=BuildOptions.train_count, help=DEFAULT)
    textures.add_argument("--test-count", type=_positive, default=BuildOptions.test_count, help=DEFAULT)
    cifars = {f"cifar{classes}": _add_cifar(commands, classes) for classes in (10, 100)}
    folder = commands.add_parser("folder", help="images of your own")
    folder.add_argument(
        "--source",
        type=Path,
        required=True,
        help="directory, tar, tar.gz or zip; in it train/ and test/ or val/ or neither; below, a directory per class, "
        "or unlabelled images",
    )
    imagenet = commands.add_parser("imagenet", help="ImageNet from its official files, read in place")
    imagenet.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="DIR",
        help="holds ILSVRC2012_img_train.tar or train/, ILSVRC2012_img_val.tar or val/, and the labels of val in "
        "ILSVRC2012_devkit_t12.tar.gz; without val only train is built",
    )
    transfer = commands.add_parser(
        "torchvision",
        help="a set of the paper's transfer experiments, as torchvision unpacks it; train and val become train",
    )
    transfer.add_argument("--name", type=_transfer_set, required=True, help=f"which: {', '.join(TRANSFER_SETS)}")
    transfer.add_argument(
        "--root", dest="source", type=Path, required=True, metavar="DIR", help="holds the set's directory"
    )
    transfer.add_argument(
        "--download",
        type=_true_or_false,
        nargs="?",
        const=True,
        default=False,
        metavar="true",
        help="let torchvision fetch it to --root if it is not there; default false",
    )
    reshuffle = commands.add_parser(
        "reshuffle",
        help="a data set, written anew in another order or form; of foreign samples only image and label stay",
    )
    reshuffle.add_argument("source", type=Path, metavar="DIR", help="data set directory, local")
    kinds = {"textures": textures, **cifars, "folder": folder, "imagenet": imagenet, "reshuffle": reshuffle}
    for command in kinds.values():
        command.add_argument("--name", help="of the data set; by default that of the source")
    for kind, command in [*kinds.items(), ("torchvision", transfer)]:
        _add_common(command)
        command.set_defaults(run=_build, kind=kind)
    _add_merge(commands)


def _add_cifar(commands: Any, classes: int) -> argparse.ArgumentParser:
    help_text = f"CIFAR-{classes}, downloaded unless --source names it"
    command: argparse.ArgumentParser = commands.add_parser(f"cifar{classes}", help=help_text)
    command.add_argument("--source", type=Path, help="an official archive, or the directory it was unpacked into")
    return command


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to make")
    command.add_argument("--seed", type=_seed, default=BuildOptions.seed, help=f"of the order; {DEFAULT}")
    command.add_argument(
        "--max-count", type=_positive, default=BuildOptions.max_count, metavar="N", help=f"samples a shard; {DEFAULT}"
    )
    command.add_argument(
        "--max-size",
        type=_positive,
        default=BuildOptions.max_size,
        metavar="BYTES",
        help=f"of a shard; reckoned from estimates where images are encoded anew; {DEFAULT}",
    )
    command.add_argument(
        "--resize",
        type=_resize,
        default=BuildOptions.resize,
        help="short:S, the short side to S, never enlarged; canvas:S, stretched to S x S, small ones too, which "
        f"training then need not do; bicubic, anti-aliased; {DEFAULT}",
    )
    command.add_argument(
        "--format",
        choices=("keep", "jpeg", "png"),
        default=BuildOptions.format,
        help=f"keep leaves the bytes of images alone that are not resized; jpeg and png encode all anew; {DEFAULT}",
    )
    command.add_argument(
        "--quality",
        type=integer_within(1, 100),
        default=BuildOptions.quality,
        help=f"of JPEGs that are encoded, with chroma 4:2:0; {DEFAULT}",
    )
    command.add_argument(
        "--on-error", choices=("fail", "skip"), default=BuildOptions.on_error, help=f"for bad images; {DEFAULT}"
    )
    _add_workers(command)
    command.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="write only the shards of part I, from 0, of N, such as $SLURM_ARRAY_TASK_ID/8; `merge` makes the data "
        "set when all are there",
    )
    command.add_argument("--restart", action="store_true", help="throw away what a stopped build of this output left")
    command.add_argument("--dry-run", action="store_true", help="print what would be made, and write nothing")


def _add_merge(commands: Any) -> None:
    command = commands.add_parser("merge", help="the data set of what the parts of a build have written")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="of the parts")
    _add_workers(command)
    command.set_defaults(run=_merge)


def _add_workers(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers", type=_positive, default=available_cores(), metavar="N", help=f"processes; {DEFAULT}"
    )


def _build(options: argparse.Namespace) -> int:
    from pipelines.build.builder import build
    from pipelines.build.dry_run import dry_run

    chosen = BuildOptions(**{name: value for name, value in vars(options).items() if name not in ("run", "command")})
    if chosen.dry_run:
        dry_run(chosen)
    else:
        build(chosen)
    return 0


def _merge(options: argparse.Namespace) -> int:
    from pipelines.build.builder import merge

    merge(options.output, options.workers)
    return 0


_positive = integer_within(1, 2**63 - 1)
_seed = integer_within(0, 2**64 - 1)


def _transfer_set(text: str) -> str:
    if text in LEFT_OUT:
        raise argparse.ArgumentTypeError(LEFT_OUT[text])
    if text not in TRANSFER_SETS:
        raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(TRANSFER_SETS)}")
    return text


def _true_or_false(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text == "true"


def _resize(text: str) -> str:
    if text != "none" and not RESIZE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"'{text}' is none of none, short:S and canvas:S, such as canvas:256")
    return text


def _part(text: str) -> Part:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"'{text}' is not I/N with I in 0 ... N-1, such as 0/8 for the first of eight")
    return Part(number=int(match[1]), count=int(match[2]))
