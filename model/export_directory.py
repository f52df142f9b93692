"""The directory that an export makes: there as a whole or not at all."""

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from model.errors import ModelError
from model.export_source import ExportSource
from model.formats.format import RECORD_NAME


def refuse_used(output: Path, *, overwrite: bool) -> None:
    """Check that an export may appear here.

    Raises:
        ModelError: something is there that must not be replaced.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise ModelError(f"{output}: exists and is not an empty directory; choose another --output, or --overwrite")
    if not _is_export(output):
        raise ModelError(f"{output}: was not made by this command (no {RECORD_NAME}), so that --overwrite spares it")


def write_record(directory: Path, source: ExportSource, format_name: str) -> None:
    """Write what the directory is: the encoder's description, for programs."""
    description = source.description
    record = {
        "format": "diptych-export",
        "version": 1,
        "export": format_name,
        "source_weights_sha256": source.weights_sha256,
        **asdict(description),
        "crop_share": description.crop_share,
        "interpolation": "bilinear",
    }
    (directory / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n")


@contextmanager
def partial_directory(output: Path) -> Generator[Path, None, None]:
    """A directory beside the output; when the block ends well it takes the output's place, otherwise it goes away.

    Raises:
        ModelError: the system refuses.
    """
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    replaced = output.with_name(f".{output.name}.replaced-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        try:
            yield partial
            for path in (*partial.rglob("*"), partial):
                _sync(path)
            if output.exists() and any(output.iterdir()):
                output.rename(replaced)  # a directory in use cannot be replaced at one stroke
            partial.rename(output)
            _sync(output.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if replaced.exists() and not output.exists():
                replaced.rename(output)
            shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        raise ModelError(f"{output}: cannot be written ({error.strerror or error}); make room or repair it") from None


def _is_export(directory: Path) -> bool:
    try:
        record = json.loads((directory / RECORD_NAME).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("format") == "diptych-export"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
