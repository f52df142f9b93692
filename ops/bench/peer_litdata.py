"""LitData: JPEG bytes in its own chunks, decoded by torchvision inside it."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHUNK_BYTES = 64_000_000


def write(files: str, output: str) -> None:
    """Make chunks of the files' bytes as they are.

    LitData empties its cache directories first, which are `data` and `chunks` in the system's temporary directory,
    whoever's they are: it gets its own.
    """
    with TemporaryDirectory(dir=Path(output).parent) as cache:
        os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = f"{cache}/chunks"
        os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = f"{cache}/data"
        import litdata

        paths = sorted(str(path) for path in Path(files).iterdir())
        litdata.optimize(_opened, paths, output, chunk_bytes=CHUNK_BYTES, num_workers=1, verbose=False)


def decoded(chunks: str, batch: int) -> Iterator[Any]:
    """Shuffled, in this process."""
    os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
    import litdata
    import torch

    torch.set_num_threads(1)
    samples = litdata.StreamingDataset(chunks, shuffle=True, drop_last=True)
    loader = litdata.StreamingDataLoader(samples, batch_size=batch, num_workers=0, drop_last=True)
    while True:
        yield from loader


def _opened(path: str) -> Any:
    """What its JPEG serialiser stores byte by byte."""
    from PIL import Image

    return Image.open(path)
