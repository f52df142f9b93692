"""Classes, and labels of the validation images, from ImageNet's development kit."""

import io
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import DataError

DEVKIT = "ILSVRC2012_devkit_t12"
META = "data/meta.mat"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


@dataclass(frozen=True, kw_only=True)
class Devkit:
    """What is needed of it."""

    place: Path
    wnids: tuple[str, ...]
    """WordNet ids of the classes, sorted."""
    wnid_by_id: dict[int, str]
    """By ILSVRC2012_ID, which is not a position among the sorted ids."""
    val_ids: list[int]
    """ILSVRC2012_ID of each validation image, from image 1 on."""

    def val_class(self, number: int) -> str:
        """WordNet id of a validation image, by the number in its name.

        Raises:
            DataError: there is no such image.
        """
        if not 1 <= number <= len(self.val_ids):
            raise DataError(
                f"{self.place}: has labels of {len(self.val_ids)} validation images, but there is a {number}"
            )
        return self.wnid_by_id[self.val_ids[number - 1]]


def read_devkit(directory: Path) -> Devkit | None:
    """The development kit in a directory, packed or unpacked; None if it is not there.

    Raises:
        DataError: it lacks a file, is damaged, or names classes that it does not have.
    """
    packed, unpacked = directory / f"{DEVKIT}.tar.gz", directory / DEVKIT
    if packed.is_file():
        place = packed
        meta, ground_truth = _packed(packed)
    elif unpacked.is_dir():
        place = unpacked
        try:
            meta, ground_truth = (unpacked / META).read_bytes(), (unpacked / GROUND_TRUTH).read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{error.filename}: no such file") from None
    else:
        return None
    wnid_by_id = _leaves(place, meta)
    try:
        val_ids = [int(line) for line in ground_truth.split()]
    except ValueError:
        raise DataError(f"{place}: {GROUND_TRUTH}: expected a number a line") from None
    if unknown := set(val_ids) - set(wnid_by_id):
        raise DataError(f"{place}: {GROUND_TRUTH} names class {min(unknown)}, which {META} does not have")
    return Devkit(place=place, wnids=tuple(sorted(wnid_by_id.values())), wnid_by_id=wnid_by_id, val_ids=val_ids)


def _packed(path: Path) -> tuple[bytes, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = next((name for name in (META, GROUND_TRUTH) if member.name.endswith(f"/{name}")), None)
                content = archive.extractfile(member) if name else None
                if name and content:
                    found[name] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a tar.gz archive, or a damaged one ({error})") from None
    for name in (META, GROUND_TRUTH):
        if name not in found:
            raise DataError(f"{path}: no {name} in it")
    return found[META], found[GROUND_TRUTH]


def _leaves(place: Path, meta: bytes) -> dict[int, str]:
    """WordNet ids by ILSVRC2012_ID of the synsets that have images: those without children."""
    from scipy.io import loadmat  # takes a second to import

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"].reshape(-1)
        leaves = synsets[synsets["num_children"] == 0]
        return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in leaves}
    except Exception as error:  # noqa: BLE001  # loadmat promises no particular type for damaged input
        raise DataError(f"{place}: {META} cannot be read ({type(error).__name__}: {error})") from None
