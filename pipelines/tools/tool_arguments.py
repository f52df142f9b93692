"""Commands of `python -m pipelines.build_shards` for data sets that are there already.

Each has `run`, a function from its options to an exit status; modules are imported when a command runs.
"""

import argparse
from pathlib import Path
from typing import Any

from pipelines.build.argument_types import available_cores, integer_within
from pipelines.tools.broken_pipe import reader_may_leave

DEFAULT = "default %(default)s"


def add_tool_commands(commands: Any) -> None:
    """Add index, stats, ls, cat, subset and verify.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
    """
    _add_index(commands)
    _add_stats(commands)
    _add_ls(commands)
    _add_cat(commands)
    _add_subset(commands)
    _add_verify(commands)


def _add_index(commands: Any) -> None:
    parser = commands.add_parser("index", help="describe shards made by others, in place")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="directory of tar files, tar file, or URL (s3://, gs://, https://; with a slash at the end a directory); "
        "{0000..0123} stands for many",
    )
    parser.add_argument("--output", type=Path, help="directory to make; by default the one directory given as SOURCE")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line, by label from 0")
    parser.add_argument(
        "--check", choices=("decode", "header"), default="decode", help=f"how far to trust the images; {DEFAULT}"
    )
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help=f"for bad samples; {DEFAULT}")
    parser.add_argument(
        "--unique-keys",
        choices=("split", "shard"),
        default="split",
        help=f"where a key may come only once; {DEFAULT}",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier index in the directory given as SOURCE"
    )
    parser.add_argument("--name", help="of the data set; by default that of the first SOURCE's directory")
    _add_workers(parser)
    parser.set_defaults(run=_run_index)


def _add_stats(commands: Any) -> None:
    parser = commands.add_parser("stats", help="count samples, classes and sizes")
    _add_directory(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=_run_stats)


def _add_ls(commands: Any) -> None:
    parser = commands.add_parser("ls", help="list samples")
    _add_directory(parser)
    parser.add_argument("--split", help="by default all")
    parser.add_argument("--limit", type=_positive, metavar="N", help="samples at most")
    parser.set_defaults(run=_run_ls)


def _add_cat(commands: Any) -> None:
    parser = commands.add_parser("cat", help="write one encoded image to a file or to standard output")
    _add_directory(parser)
    parser.add_argument("key", metavar="KEY", help="of the sample, as `ls` shows it; with --id its number")
    parser.add_argument("--id", action="store_true", help="KEY is a sample's number in its split")
    parser.add_argument("--split", help="by default all in turn for a key, train for a number")
    parser.add_argument("--output", type=Path, metavar="FILE")
    parser.set_defaults(run=_run_cat)


def _add_subset(commands: Any) -> None:
    parser = commands.add_parser("subset", help="a part of a split; the shards are shared, not copied")
    _add_directory(parser)
    parser.add_argument("--output", type=Path, required=True, help="directory to make")
    part = parser.add_mutually_exclusive_group(required=True)
    part.add_argument("--fraction", type=_fraction, metavar="F", help="of the split's samples, in (0, 1]")
    part.add_argument("--per-class", type=_positive, metavar="N", help="samples of every class")
    part.add_argument("--list", type=Path, metavar="FILE", help="file names or keys, one a line")
    parser.add_argument("--balanced", action="store_true", help="with --fraction: equally many of every class")
    parser.add_argument("--seed", type=_seed, default=0, help=f"of the choice; {DEFAULT}")
    parser.add_argument("--split", default="train", help=f"to choose from; others stay whole; {DEFAULT}")
    parser.set_defaults(run=_run_subset)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser("verify", help="check every byte of a data set directory")
    _add_directory(parser)
    parser.add_argument("--json", action="store_true", help="print the faults as JSON")
    _add_workers(parser)
    parser.set_defaults(run=_run_verify)


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="data set directory, or its URL")


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=_positive, default=available_cores(), metavar="N", help=f"processes; {DEFAULT}"
    )


def _run_index(options: argparse.Namespace) -> int:
    from pipelines.tools.index_foreign import IndexOptions, index_foreign

    index_foreign(IndexOptions(**{**_chosen(options), "sources": tuple(options.sources)}))
    return 0


def _run_stats(options: argparse.Namespace) -> int:
    from pipelines.tools.inspect_stats import print_stats

    with reader_may_leave():
        print_stats(options.directory, as_json=options.json)
    return 0


def _run_ls(options: argparse.Namespace) -> int:
    from pipelines.tools.inspect_samples import print_samples

    with reader_may_leave():
        print_samples(options.directory, wanted_split=options.split, limit=options.limit)
    return 0


def _run_cat(options: argparse.Namespace) -> int:
    from pipelines.tools.inspect_samples import write_image

    write_image(options.directory, options.key, is_id=options.id, wanted_split=options.split, output=options.output)
    return 0


def _run_subset(options: argparse.Namespace) -> int:
    from pipelines.tools.subset import SubsetOptions, write_subset

    write_subset(SubsetOptions(**_chosen(options)))
    return 0


def _run_verify(options: argparse.Namespace) -> int:
    from pipelines.tools.verify import verify

    return verify(options.directory, workers=options.workers, as_json=options.json)


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in ("command", "run")}


def _fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number <= 1.0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number in (0, 1]")
    return number


_positive = integer_within(1, 2**63 - 1)
_seed = integer_within(0, 2**64 - 1)
