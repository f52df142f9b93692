"""A transfer set in the directory from which it is read: put there by hand, or fetched by torchvision."""

import shutil
from pathlib import Path

from pipelines.build.transfer_sets import TransferSet
from pipelines.errors import DataError
from pipelines.messages import say


def bring(which: TransferSet, root: Path, *, download: bool) -> None:
    """See to it that a set is there.

    Args:
        which: the set.
        root: directory in which its own lies.
        download: let torchvision fetch what is not there.

    Raises:
        DataError: it is not there, or cannot be fetched.
    """
    missing = _missing(which, root)
    if missing and download and which.is_served:
        _fetch(which, root)
        missing = _missing(which, root)
    if missing:
        wanted = f"{which.title} is looked for as torchvision unpacks it, with {', '.join(which.unpacked)} in --root"
        advice = "add --download true" if which.is_served else "nobody serves it any more, so it must be put there"
        raise DataError(f"{root / missing}: no such file or directory; {wanted}; {advice}")


def _missing(which: TransferSet, root: Path) -> str:
    """The first part that is not there, or ""."""
    return next((name for name in which.unpacked if not (root / name).exists()), "")


def _fetch(which: TransferSet, root: Path) -> None:
    """Let torchvision download and unpack, beside; what it leaves appears in the root when it is whole."""
    from torchvision import datasets

    directory = which.unpacked[0].partition("/")[0]
    if (root / directory).exists():
        raise DataError(f"{root / directory}: a part of {which.title} is there already; move it away, then fetch again")
    partial = root / f".{directory}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # torchvision would take what a killed attempt unpacked for the whole
    partial.mkdir(parents=True)
    say(f"torchvision fetches {which.title}")
    try:
        getattr(datasets, which.torchvision)(str(partial), download=True)
    except Exception as error:  # noqa: BLE001  # of urllib, http, tarfile, zipfile and torchvision itself
        shutil.rmtree(partial)
        reason = " ".join(str(error).split())
        advice = f"fetch it by other means and unpack {', '.join(which.unpacked)} in {root}"
        raise DataError(f"{which.title} cannot be fetched ({type(error).__name__}: {reason}); {advice}") from None
    for path in sorted(partial.iterdir()):
        path.replace(root / path.name)
    partial.rmdir()
