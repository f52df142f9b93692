"""Sample ids -> canvases: gathered if they were decoded before, else read, checked and decoded.

ids -> known to be damaged? -> canvas_cache.py -> store.py -> decode.py -> canvas
             |                                       |           |
             +----------------- another sample takes the place --+
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.canvas_cache import CanvasCache
from pipelines.config import DataConfig
from pipelines.damaged_samples import DamagedSamples
from pipelines.decode import Boxes, Decoder, SourceCrops, UndecodableBatchError
from pipelines.encoded import DamagedSampleError, EncodedBatch
from pipelines.manifest import SplitIndex
from pipelines.order import IdArray
from pipelines.store import Store

Replace = Callable[[int, DamagedSampleError], int]
"""Takes a place in the batch and what is wrong with its sample; returns the id of the sample that stands in."""
BoxesOf = Callable[[IdArray], Boxes]
"""(B,) ids -> (2B, 4) boxes of both views of each."""


@dataclass(kw_only=True)
class LoaderWork:
    """What it took to make a batch. Seconds are of the loader's thread."""

    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    gather_seconds: float = 0.0
    """In the cache of decoded canvases."""
    transfer_seconds: float = 0.0
    """To the device, of what is not decoded or kept there."""
    draw_seconds: float = 0.0
    images_decoded: int = 0
    images_cached: int = 0
    bytes_read: int = 0
    """Of encoded images."""
    bytes_fetched: int = 0
    """Through the network, by this rank, read ahead included."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of a block to `STAGE_seconds`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            name = f"{stage}_seconds"
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)


class CanvasReader:
    """Reads one split."""

    def __init__(
        self,
        split: SplitIndex,
        data: DataConfig,
        *,
        batch: int,
        device: torch.device,
        damaged: DamagedSamples | None = None,
        cache: CanvasCache | None = None,
        crops: SourceCrops | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            split: what is read.
            data: how.
            batch: the largest number of samples at a time.
            device: where canvases are wanted.
            damaged: samples that are not even tried.
            cache: of canvases that were decoded before.
            crops: if crops are to be cut from the originals; not with a cache.
            stop: when it is set, waiting for the network ends with DataError.
        """
        self.store = Store(split, data, stop)
        resize = not _stored_as_canvases(split, data.canvas)
        self._decoder = Decoder(data.canvas, batch, data.decode_threads, device, resize=resize, crops=crops)
        self._device, self._cache = device, cache
        self._proven = np.full(len(split), split.manifest.pixels_checked)
        self._known = damaged.reasons if damaged is not None else {}
        self._told_fetched = 0

    def read(self, ids: IdArray, replace: Replace, work: LoaderWork, boxes_of: BoxesOf | None = None) -> Tensor:
        """Canvases of samples, or crops of them.

        Args:
            ids: (B,), changed where a sample is damaged and another stands in.
            replace: names that other; it may raise instead.
            work: what was done is added to it.
            boxes_of: the crops, if they are cut here; asked when it is certain which samples make the batch.

        Returns:
            (B, 3, S, S) uint8 on the device, or (2B, 3, s, s) crops.
        """
        read_before = self.store.bytes_read
        for place in range(len(ids)) if self._known else ():
            if (known := int(ids[place])) in self._known:
                ids[place] = replace(place, DamagedSampleError(known, self._known[known]))
        if self._cache is None:
            canvas = self._decode(ids, np.arange(len(ids)), replace, work, boxes_of)
        else:
            canvas = self._from_cache(self._cache, ids, replace, work)
        work.bytes_read += self.store.bytes_read - read_before
        fetched = self.store.bytes_fetched  # what comes between two batches counts, too
        work.bytes_fetched += fetched - self._told_fetched
        self._told_fetched = fetched
        return canvas

    def close(self) -> None:
        """Close the shards and end all threads."""
        self.store.close()
        self._decoder.close()

    def _from_cache(self, cache: CanvasCache, ids: IdArray, replace: Replace, work: LoaderWork) -> Tensor:
        missing = cache.missing(ids)
        if len(missing):
            decoded = self._decode(ids, missing, replace, work)
            with work.timed("gather"):
                cache.put(ids[missing], decoded)
        work.images_cached += len(ids) - len(missing)
        with work.timed("gather"):
            canvas = cache.get(ids, pinned=self._device.type == "cuda")
        with work.timed("transfer"):
            return canvas.to(self._device)

    def _decode(
        self, ids: IdArray, places: IdArray, replace: Replace, work: LoaderWork, boxes_of: BoxesOf | None = None
    ) -> Tensor:
        """Canvases of the samples in some places of `ids`, which change where one is damaged."""
        work.images_decoded += len(places)
        with work.timed("read"):
            batch = self.store.read(ids[places])
        while True:
            with work.timed("read"):
                self._replace_damaged(batch, ids, places, replace)
            with work.timed("decode"):
                unproven = np.flatnonzero(~self._proven[ids[places]]).tolist()
                try:
                    bad = self._undecodable(batch, unproven)
                    if not bad:
                        self._proven[ids[places]] = True
                        boxes = boxes_of(ids[places]) if boxes_of else None
                        return self._decoder.decode(batch.images, batch.rows, boxes)
                except UndecodableBatchError:
                    bad = self._undecodable(batch, list(range(len(places))))
                    if not bad:
                        raise  # not the images' fault
            batch.reasons |= dict.fromkeys(bad, "undecodable")

    def _undecodable(self, batch: EncodedBatch, numbers: list[int]) -> list[int]:
        """Which of some images of a batch cannot be decoded."""
        return [numbers[place] for place in self._decoder.undecodable([batch.images[number] for number in numbers])]

    def _replace_damaged(self, batch: EncodedBatch, ids: IdArray, places: IdArray, replace: Replace) -> None:
        while batch.reasons:
            number, reason = next(iter(batch.reasons.items()))
            place = int(places[number])
            ids[place] = replace(place, DamagedSampleError(int(ids[place]), reason))
            other = self.store.read(ids[place : place + 1])
            batch.replace(number, other.images[0])
            if other.reasons:
                batch.reasons[number] = other.reasons[0]


def _stored_as_canvases(split: SplitIndex, canvas: int) -> bool:
    """Whether every image is stored as a square of the canvas's side."""
    if split.manifest.resize != "none":
        return split.manifest.resize == f"canvas:{canvas}"
    return bool(((split.samples["height"] == canvas) & (split.samples["width"] == canvas)).all())
