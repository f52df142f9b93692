"""Decoded canvases, kept: a sample is decoded when it is first met and gathered from then on.

    memory: a tensor of each rank, on its device if there is room, else in (pinned) host memory
    disk:   CACHE_DIR/canvases/NAME.uint8 beside NAME.crc32, mapped into memory and shared by the ranks of a node

A sample is in the cache when its checksum is written, which happens after its pixels are. What lies on the disk is
checked against the checksums when it is opened, so that a torn or aged file costs decoding, not truth.
"""

import errno
import fcntl
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.config import DataConfig
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex
from pipelines.order import IdArray

_PART_OF_FREE_MEMORY = 8
"""`auto` takes an eighth of what is free at most, and so does any cache of the device's memory."""


class CanvasCache:
    """Canvases of one split by sample id."""

    def __init__(self, pixels: Tensor, checksums: Tensor, *, shared: bool) -> None:
        """Take over what is there already.

        Args:
            pixels: (N, S, S, 3) uint8, on any device.
            checksums: (N,) int64 on the host, 0 where there is no canvas.
            shared: whether they outlive this process, so that checksums must be true.
        """
        self._pixels, self._checksums, self._shared = pixels, checksums, shared
        self._complete = False

    def missing(self, ids: IdArray) -> IdArray:
        """Places in `ids` whose canvases are not there."""
        if self._complete:
            return np.empty(0, dtype=np.int64)
        missing = np.flatnonzero(self._checksums.numpy()[ids] == 0)
        self._complete = not len(missing) and bool(self._checksums.all())
        return missing

    def put(self, ids: IdArray, canvas: Tensor) -> None:
        """Keep canvases, (B, 3, S, S), of samples."""
        pixels = canvas.permute(0, 2, 3, 1).to(self._pixels.device)
        self._pixels.index_copy_(0, torch.from_numpy(ids).to(self._pixels.device), pixels)
        checksums = [_checksum(row) for row in pixels.contiguous().numpy()] if self._shared else [1] * len(ids)
        self._checksums[torch.from_numpy(ids)] = torch.tensor(checksums)

    def get(self, ids: IdArray, *, pinned: bool) -> Tensor:
        """Gather canvases, (B, 3, S, S) uint8 where they are kept, channels last in memory.

        Args:
            ids: (B,).
            pinned: if they are kept on the host, gather into pinned memory.
        """
        canvas = torch.empty(
            (len(ids), *self._pixels.shape[1:]),
            dtype=torch.uint8,
            device=self._pixels.device,
            pin_memory=pinned and not self._pixels.is_cuda,
        )
        torch.index_select(self._pixels, 0, torch.from_numpy(ids).to(self._pixels.device), out=canvas)
        return canvas.permute(0, 3, 1, 2)


def open_canvas_cache(
    split: SplitIndex, data: DataConfig, device: torch.device, ranks_on_node: int
) -> CanvasCache | None:
    """A cache of the kind that `data.cache` asks for, or None.

    Args:
        split: whose canvases.
        data: their side, the kind of the cache and its directory.
        device: of this rank.
        ranks_on_node: that share its memory.

    Raises:
        DataError: the disk has no room.
    """
    kind, canvas = data.cache, data.canvas
    shape = (len(split), canvas, canvas, 3)
    wanted = len(split) * canvas * canvas * 3
    if kind == "disk":
        directory = Path(data.cache_dir).expanduser() / "canvases"
        directory.mkdir(parents=True, exist_ok=True)
        stem = directory / f"{split.name}-{split.manifest.fingerprint[:32]}-{canvas}-{device.type}"
        pixels = torch.from_numpy(_mapped(stem.with_suffix(".uint8"), wanted).reshape(shape))
        checksums = torch.from_numpy(_mapped(stem.with_suffix(".crc32"), 8 * len(split)).view(np.int64))
        _forget_torn(pixels, checksums)
        return CanvasCache(pixels, checksums, shared=True)

    fits_device = device.type == "cuda" and wanted * _PART_OF_FREE_MEMORY <= torch.cuda.mem_get_info(device)[0]
    fits_host = wanted * _PART_OF_FREE_MEMORY <= _free_host_memory() // ranks_on_node
    if kind == "none" or (kind == "auto" and not fits_device and not fits_host):
        return None
    marks = torch.zeros(len(split), dtype=torch.int64)
    if fits_device:
        return CanvasCache(torch.empty(shape, dtype=torch.uint8, device=device), marks, shared=False)
    return CanvasCache(torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda"), marks, shared=False)


def _mapped(path: Path, size: int) -> "np.memmap[tuple[int], np.dtype[np.uint8]]":
    """A file of `size` bytes, zeros at first, whose room on the disk is reserved: a full disk would be SIGBUS later."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the ranks of a node come here together
        missing = size - os.fstat(descriptor).st_size
        if missing > 0:
            if shutil.disk_usage(path.parent).free < missing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise DataError(
            f"{path}: no room for {size} bytes of decoded canvases ({error.strerror}); free some, name another "
            "data.cache_dir or set data.cache = none"
        ) from None
    finally:
        os.close(descriptor)
    return np.memmap(path, dtype=np.uint8, mode="r+", shape=(size,))


def _forget_torn(pixels: Tensor, checksums: Tensor) -> None:
    rows, expected = pixels.numpy(), checksums.numpy()
    for place in np.flatnonzero(expected).tolist():
        if _checksum(rows[place]) != expected[place]:
            expected[place] = 0


def _checksum(pixels: npt.NDArray[np.uint8]) -> int:
    """CRC-32 with a bit above it, so that it is never 0."""
    return zlib.crc32(pixels.data) | 1 << 32


def _free_host_memory() -> int:
    """Bytes that may still be taken, a container's limit heeded."""
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    free = int(line.split()[1]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text))
    return free
