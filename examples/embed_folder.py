"""Turns a folder of images into a table of path and embedding: h of an encoder that Diptych pretrained.

    python examples/embed_folder.py runs/mine photos --output photos.parquet
    python examples/embed_folder.py runs/mine/encoder photos --output photos.npz --device cuda --workers 8

Needs Pillow and torch, not DALI: this is how an encoder is used away from training. Images are cut and normalised as
the encoder's description says. What cannot be read is named and left out.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from model.description import EncoderDescription, find_encoder, weights_sha256
from model.errors import ModelError
from model.export import load_encoder

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
ROWS_AT_ONCE = 8192
"""Of a row group of the Parquet file."""

Rows = tuple[list[str], npt.NDArray[np.float32]]
"""Paths, and (N, D) embeddings in the same order."""


class EmbedError(Exception):
    """What the user can mend, in one line."""


@dataclass(frozen=True)
class Unreadable:
    """An image of which there is no view."""

    path: Path
    reason: str


class Views(Dataset[tuple[Path, Tensor] | Unreadable]):
    """Image files as the encoder wants to see them."""

    def __init__(self, paths: Sequence[Path], description: EncoderDescription) -> None:
        """Open nothing yet."""
        self._paths, self._description = paths, description

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> tuple[Path, Tensor] | Unreadable:
        path = self._paths[i]
        try:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # as Pillow's readers raise
            return Unreadable(path, " ".join(str(error).split()))
        return path, view(upright, self._description)


def view(image: Image.Image, description: EncoderDescription) -> Tensor:
    """The central square of an image, resized and normalised: (3, s, s) float32."""
    size, side = description.image_size, description.crop_share * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    small = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(small, np.float32)).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(description.mean).view(3, 1, 1)) / torch.tensor(description.std).view(3, 1, 1)


def embed(
    options: argparse.Namespace, folder: Path, paths: Sequence[Path], unreadable: list[Unreadable]
) -> Iterator[Rows]:
    """Yield the embeddings of all images that can be read, in the order of their paths; collects the others."""
    encoder, description = load_encoder(options.encoder)
    encoder.to(options.device)
    batches = DataLoader(
        Views(paths, description),
        batch_size=options.batch,
        num_workers=options.workers,
        collate_fn=list,  # what cannot be read has no tensor to stack
    )
    with torch.no_grad(), tqdm(total=len(paths), unit="image", dynamic_ncols=True) as bar:
        for batch in batches:
            bar.update(len(batch))
            for item in batch:
                if isinstance(item, Unreadable):
                    unreadable.append(item)
                    bar.write(f"{item.path}: left out ({item.reason})", file=sys.stderr)
            read = [item for item in batch if not isinstance(item, Unreadable)]
            if read:
                h = encoder(torch.stack([pixels for _, pixels in read]).to(options.device))
                if not h.isfinite().all():
                    raise EmbedError(f"{options.encoder}: gives numbers that are not finite; its run has diverged")
                yield [name_of(path, folder) for path, _ in read], h.cpu().numpy()


def name_of(path: Path, folder: Path) -> str:
    """Path below the folder; bytes that are not UTF-8 become question marks, since tables hold text."""
    return os.fsencode(path.relative_to(folder)).decode(errors="replace")


def write_parquet(path: Path, rows: Iterator[Rows], about: dict[str, str]) -> int:
    """Write as rows come, so that memory does not grow with them; returns their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, count, waiting = None, 0, list[pa.RecordBatch]()
    try:
        for names, h in rows:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(h.ravel()), h.shape[1])
            schema = pa.schema([("path", pa.string()), ("embedding", vectors.type)], metadata=about)
            writer = writer or pq.ParquetWriter(path, schema)
            waiting.append(pa.record_batch([pa.array(names), vectors], schema=schema))
            count += len(names)
            if sum(map(len, waiting)) >= ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting = []
        if writer and waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    finally:
        if writer:
            writer.close()
    return count


def write_npz(path: Path, rows: Iterator[Rows], about: dict[str, str]) -> int:
    """Write the arrays `path` (N,) and `embedding` (N, D) at the end; returns N."""
    parts = list(rows)
    if not parts:
        return 0
    names = [name for part, _ in parts for name in part]
    with path.open("wb") as file:
        arrays = {"path": np.array(names), "embedding": np.concatenate([h for _, h in parts])}
        np.savez(file, allow_pickle=False, **arrays, **{name: np.array(text) for name, text in about.items()})
    return len(names)


def run(options: argparse.Namespace) -> None:
    """Embed a folder into a file that appears whole."""
    folder, output = options.folder, options.output
    if output.exists():
        raise EmbedError(f"{output}: exists already; remove it or choose another --output")
    if not folder.is_dir():
        raise EmbedError(f"{folder}: no such directory")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise EmbedError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))})")
    about = {"encoder_weights_sha256": weights_sha256(find_encoder(options.encoder))}
    write = write_parquet if output.suffix == ".parquet" else write_npz
    partial = output.with_name(f"{output.name}.partial")
    unreadable: list[Unreadable] = []
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        count = write(partial, embed(options, folder, paths, unreadable), about)
        if not count:
            raise EmbedError(f"{folder}: none of its {len(paths)} images can be read")
        partial.replace(output)
    except OSError as error:
        raise EmbedError(f"{output}: cannot be written ({error.strerror or error}); make room and repeat") from None
    finally:
        partial.unlink(missing_ok=True)
    print(f"{output}: {count:,} embeddings" + (f"; {len(unreadable):,} images left out" if unreadable else ""))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 for what cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, metavar="RUN", help="run directory, or that of an encoder")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds images, in folders or not")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=".parquet or .npz")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default %(default)s")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time; default %(default)s")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read; default %(default)s")
    options = parser.parse_args(arguments)
    try:
        if options.output.suffix not in (".parquet", ".npz"):
            raise EmbedError(f"{options.output}: must end in .parquet or .npz")
        if options.output.suffix == ".parquet" and not _is_there("pyarrow"):
            raise EmbedError("pyarrow is not installed; pip install 'diptych[export]', or use --output FILE.npz")
        if options.batch < 1 or options.workers < 0:
            raise EmbedError(f"--batch {options.batch} --workers {options.workers}: at least 1 and 0 are wanted")
        if options.device == "cuda" and not torch.cuda.is_available():
            raise EmbedError("--device cuda: torch finds no CUDA device; use cpu or check the driver")
        run(options)
    except (EmbedError, ModelError) as error:
        print(f"embed_folder: error: {error}", file=sys.stderr)
        return 2
    return 0


def _is_there(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


if __name__ == "__main__":
    sys.exit(main())
