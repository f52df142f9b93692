"""Encoded images -> square uint8 canvases, or crops of the views at full sharpness, by NVIDIA DALI.

DALI owns the pixels only: which images make a batch is decided elsewhere and handed in, so that order, replacement and
resume do not depend on a reader's state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

# DALI 2.4 may crash the process when one of many images has no valid header: other threads go on parsing into what the
# error has freed. Up to 16 images are parsed by one thread: 5,000 bad batches of such sizes did no harm, where batches
# of 64 crashed every process within 250.
_SAFE_BATCH = 16


Boxes = npt.NDArray[np.float64]
"""(2B, 4) of both views of B images: top, left, height, width as shares of the upright image."""
_CUTS = ("first", "second")


@dataclass(frozen=True, kw_only=True)
class SourceCrops:
    """Crops are cut from the decoded original, not from a canvas."""

    size: int
    """s, side of a view in pixels."""
    bicubic: bool
    boxes_of: Callable[..., Boxes]
    """Says, for (B,) sample ids and what else names their batch, which."""


class UndecodableBatchError(Exception):
    """At least one image of the batch cannot be decoded; DALI does not say which."""


class Decoder:
    """Decodes batches of encoded images onto canvases.

    On CUDA, nvJPEG decodes on the device (DALI's `mixed` operators) and the canvas never visits the host. The caller's
    thread has made the device current.
    """

    def __init__(
        self,
        canvas: int,
        batch: int,
        threads: int,
        device: torch.device,
        *,
        resize: bool,
        crops: SourceCrops | None = None,
    ) -> None:
        """Build the pipeline.

        Args:
            canvas: S, side of the canvas in pixels.
            batch: the largest number of images in one call.
            threads: DALI's.
            device: where canvases are wanted.
            resize: False when every image is already S x S, which saves a pass over the pixels.
            crops: if both views are to be cut here.
        """
        self._side, self._batch, self._threads = crops.size if crops else canvas, batch, threads
        self._device, self._resize, self._crops = device, resize, crops
        self._pipeline = self._build(batch)
        self._careful: Any = None  # made when it is first needed

    def decode(
        self,
        images: Sequence[memoryview],
        rows: npt.NDArray[np.uint8] | None = None,
        boxes: Boxes | None = None,
    ) -> Tensor:
        """Decode, turn upright by EXIF, convert to RGB, resize anti-aliased to the square.

        Images of unknown origin are to pass `undecodable` first.

        Args:
            images: at most `batch` encoded JPEG, PNG or other images.
            rows: the same images as rows of a matrix, if they lie so.
            boxes: of the crops, if the decoder cuts them, to whole pixels of the original. They are torchvision's
                `resized_crop(antialias=True)` rounded to whole numbers, but for one pixel at the edges of a crop that
                is shrunk: there DALI repeats the outermost pixel.

        Returns:
            (B, 3, S, S) uint8 on the device, channels last in memory, ready for any stream; if it cuts crops, their
            (2B, 3, s, s).

        Raises:
            UndecodableBatchError: the batch holds an image that cannot be decoded.
        """
        try:
            return self._run(self._pipeline, images, rows, boxes)
        except RuntimeError as error:  # a failed run leaves a DALI pipeline unusable
            self._pipeline = self._build(self._batch)
            raise UndecodableBatchError(str(error)) from error

    def undecodable(self, images: Sequence[memoryview]) -> list[int]:
        """Positions of the images that cannot be decoded."""
        bad = []
        for first in range(0, len(images), _SAFE_BATCH):
            group = images[first : first + _SAFE_BATCH]
            if self._fails(group):
                bad += [first + place for place, image in enumerate(group) if self._fails([image])]
        return bad

    def _fails(self, images: Sequence[memoryview]) -> bool:
        self._careful = self._careful or self._build(_SAFE_BATCH)
        try:
            self._run(self._careful, images)
        except RuntimeError:
            self._careful = None
            return True
        return False

    def close(self) -> None:
        """End DALI's threads; the decoder cannot be used again."""
        self._pipeline = self._careful = None

    def _build(self, batch: int) -> Any:
        """A pipeline that runs when it is asked to: the loader's thread already runs ahead.

        The dynamic executor gives each result memory of its own, which need not be copied to be kept.
        """
        from nvidia.dali import Pipeline, fn, types

        on_gpu = self._device.type == "cuda"
        pipeline = Pipeline(
            batch_size=batch,
            num_threads=self._threads,
            device_id=torch.cuda.current_device() if on_gpu else None,
            exec_dynamic=True,
            prefetch_queue_depth=1,
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            pixels = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB)
            if self._crops:
                pipeline.set_outputs(*(self._cut(pixels, name) for name in _CUTS))
            elif self._resize:
                pipeline.set_outputs(fn.resize(pixels, size=[self._side, self._side], antialias=True))
            else:
                pipeline.set_outputs(pixels)
        pipeline.build()
        return pipeline

    def _cut(self, pixels: Any, name: str) -> Any:
        from nvidia.dali import fn, types

        kernel = types.INTERP_CUBIC if self._crops and self._crops.bicubic else types.INTERP_LINEAR
        start = fn.external_source(name=f"{name} start", dtype=types.FLOAT, ndim=1)
        end = fn.external_source(name=f"{name} end", dtype=types.FLOAT, ndim=1)
        region = fn.slice(pixels, rel_start=start, rel_end=end, axes=[0, 1])  # a region of interest sees its neighbours
        return fn.resize(region, size=[self._side, self._side], antialias=True, interp_type=kernel)

    def _run(
        self,
        pipeline: Any,
        images: Sequence[memoryview],
        rows: npt.NDArray[np.uint8] | None = None,
        boxes: Boxes | None = None,
    ) -> Tensor:
        pipeline.feed_input("encoded", _as_input(images, rows))
        if self._crops:
            boxes = np.tile([0.0, 0.0, 1.0, 1.0], (2 * len(images), 1)) if boxes is None else boxes
            for name, half in zip(_CUTS, np.split(boxes.astype(np.float32), 2), strict=True):
                pipeline.feed_input(f"{name} start", np.ascontiguousarray(half[:, :2]))
                pipeline.feed_input(f"{name} end", half[:, :2] + half[:, 2:])
        decoded = [self._as_torch(output.as_tensor(), len(images)) for output in pipeline.run()]
        canvas = torch.cat(decoded) if self._crops else decoded[0]
        return canvas.permute(0, 3, 1, 2)

    def _as_torch(self, pixels: Any, images: int) -> Tensor:
        """(B, side, side, 3)."""
        if tuple(pixels.shape()) != (images, self._side, self._side, 3):
            raise RuntimeError(f"decoded to {pixels.shape()}")  # an image that is not of the size the index says
        if self._device.type != "cuda":
            taken: Tensor = from_dlpack(pixels)
            return taken
        from nvidia.dali.plugin.pytorch import feed_ndarray

        # Into memory of torch's, whose allocator knows which streams still read it; DALI's does not. With a stream DALI
        # does not wait for its copy; this thread does, so that any stream may read it.
        stream = torch.cuda.current_stream(self._device)
        copied = torch.empty(images, self._side, self._side, 3, dtype=torch.uint8, device=self._device)
        feed_ndarray(pixels, copied, cuda_stream=stream)
        stream.synchronize()
        return copied


def _as_input(images: Sequence[memoryview], rows: npt.NDArray[np.uint8] | None) -> Any:
    """What DALI takes for a batch."""
    from nvidia.dali.tensors import TensorCPU, TensorListCPU

    if rows is not None:
        return TensorListCPU(rows)
    return TensorListCPU([TensorCPU(image) for image in images])
