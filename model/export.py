"""Writes a run's encoder as other libraries load it, checks that they compute the same, and describes it.

    python -m model.export runs/mine --format torchvision --output exports/mine-torchvision
    python -m model.export runs/mine --format huggingface --output exports/mine --push_to_hub me/mine

The directory appears complete, with a model card, or not at all. `load_encoder` is what reads our own files:

    from model.export import load_encoder
    encoder, description = load_encoder("runs/mine")
"""

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from model.description import EncoderDescription
from model.errors import ModelError
from model.export_directory import partial_directory, refuse_used, write_record
from model.export_source import ExportSource, read_source
from model.formats.all_formats import FORMATS
from model.formats.format import Format, Place
from model.hub_upload import refuse_upload, upload
from model.model_card import model_card


def load_encoder(directory: str | Path) -> tuple[Any, EncoderDescription]:
    """Load an encoder in eval mode; see `model.encoder_file.load_encoder`, which this is.

    Args:
        directory: of a run, or of its encoder.

    Returns:
        The module, (B, 3, s, s) -> (B, num_features), and its description. Images are RGB in [0, 1], normalised by the
        description's mean and std: (images - mean) / std.

    Raises:
        ModelError: a file is missing or damaged, or the weights do not fit the architecture.
    """
    from model import encoder_file  # here, so that the command refuses what is wrong before torch is imported

    return encoder_file.load_encoder(directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 for what cannot be done."""
    options = _parser().parse_args(arguments)
    output = Path(options.output).resolve()
    try:
        export_format = FORMATS[options.format]
        refuse_used(output, overwrite=options.overwrite)
        if options.push_to_hub:
            refuse_upload(options.push_to_hub)
        source = read_source(options.run)
        export_format.refuse(source.description)
        _refuse_without(export_format)
        place = Place(directory=options.output, repository=options.push_to_hub)
        export(source, export_format, output, place, licence=options.license)
        if options.push_to_hub:
            print(f"pushed to {upload(output, options.push_to_hub)}", flush=True)
    except ModelError as error:
        print(f"export: error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def export(source: ExportSource, export_format: Format, output: Path, place: Place, *, licence: str) -> None:
    """Write, read back, compare and describe an encoder; then put it in place, and say so.

    Args:
        source: the encoder.
        export_format: one that does not refuse it.
        output: directory to make, or to replace.
        place: where the card tells readers to load it from.
        licence: for the card.

    Raises:
        ModelError: the encoder is damaged or not finite, the export is not the same, or the system refuses.
    """
    from model.formats.comparison import compare, refuse_not_finite

    encoder, description = load_encoder(source.directory)
    encoder.requires_grad_(False)
    refuse_not_finite(encoder)
    with partial_directory(output) as partial:
        write_record(partial, source, export_format.name)
        export_format.write(encoder, description, partial)
        exported = export_format.load(partial)
        library = f"{export_format.runner} {version(export_format.runner)}" if exported else ""
        if exported is None:
            checked = f"It was not run: {export_format.runner} was not installed where it was exported."
        else:
            agreement = compare(encoder, description, exported)
            checked = (
                f"{library} gives the h of Diptych's encoder: on {agreement.images} random images they differ by "
                f"{agreement.difference:.2g} at most, where h reaches {agreement.magnitude:.2g}."
            )
        card = model_card(
            source,
            name=place.repository.rpartition("/")[2] or output.name,
            library=export_format.library_name,
            usage=export_format.usage(description, place),
            input_note=export_format.input_note,
            checked=checked,
            licence=licence,
        )
        (partial / "README.md").write_text(card)
    print(checked)
    print(f"scores in the card: {source.why_no_scores or len(source.scores)}")
    print(f"written to {output}: {', '.join(sorted(path.name for path in output.iterdir()))}", flush=True)


def _refuse_without(export_format: Format) -> None:
    missing = [library for library in export_format.libraries if find_spec(library) is None]
    if missing:
        raise ModelError(
            f"--format {export_format.name}: {' and '.join(missing)} not installed; pip install 'diptych[export]'"
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m model.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of train/pretrain.py, or of an encoder")
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help="of which library")
    parser.add_argument("--output", required=True, metavar="DIR", help="directory to make")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    parser.add_argument(
        "--license",
        type=_licence,
        default="unknown",
        metavar="ID",
        help="for the model card: an identifier of the Hugging Face hub, such as apache-2.0; default %(default)s",
    )
    parser.add_argument(
        "--push_to_hub",
        default="",
        metavar="OWNER/NAME",
        help="also upload the directory to the Hugging Face hub, into a repository that is private if it is new",
    )
    return parser


def _licence(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", text):
        raise argparse.ArgumentTypeError(f"{text}: lower-case letters, digits, dots and dashes, such as apache-2.0")
    return text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        print(f"export: error: {message}", file=sys.stderr, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no half-written directory is left
    sys.exit(main())
