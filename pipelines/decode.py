"""Encoded images -> square uint8 canvases, by NVIDIA DALI.

DALI owns the pixels only: which images make a batch is decided elsewhere and handed in, so that order, replacement and
resume do not depend on a reader's state.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

EncodedImage = npt.NDArray[np.uint8]


class UndecodableBatchError(Exception):
    """At least one image of the batch cannot be decoded; DALI does not say which."""


class Decoder:
    """Decodes batches of encoded images onto canvases.

    On CUDA, nvJPEG decodes on the device (DALI's `mixed` operators) and the canvas never visits the host. The caller's
    thread has made the device current.
    """

    def __init__(self, canvas: int, batch: int, threads: int, device: torch.device, *, resize: bool) -> None:
        """Build the pipeline.

        Args:
            canvas: S, side of the canvas in pixels.
            batch: the largest number of images in one call.
            threads: DALI's.
            device: where canvases are wanted.
            resize: False when every image is already S x S, which saves a pass over the pixels.
        """
        self._canvas, self._batch, self._threads = canvas, batch, threads
        self._device, self._resize = device, resize
        self._pipeline = self._build(batch)

    def decode(self, images: Sequence[EncodedImage]) -> Tensor:
        """Decode, turn upright by EXIF, convert to RGB, resize anti-aliased to the square.

        Args:
            images: at most `batch` encoded JPEG, PNG or other images, each (bytes,).

        Returns:
            (B, 3, S, S) uint8 on the device, ready for any stream.

        Raises:
            UndecodableBatchError: the batch holds an image that cannot be decoded.
        """
        try:
            return self._run(self._pipeline, images)
        except RuntimeError as error:  # a failed run leaves a DALI pipeline unusable
            self._pipeline = self._build(self._batch)
            raise UndecodableBatchError(str(error)) from error

    def undecodable(self, images: Sequence[EncodedImage]) -> list[int]:
        """Positions of the images that cannot be decoded, found one by one."""
        bad = []
        single = self._build(1)
        for position, image in enumerate(images):
            try:
                self._run(single, [image])
            except RuntimeError:
                bad.append(position)
                single = self._build(1)
        return bad

    def _build(self, batch: int) -> Any:
        """A synchronous pipeline: the loader's thread already runs ahead, and what it feeds is what it gets back."""
        from nvidia.dali import Pipeline, fn, types

        on_gpu = self._device.type == "cuda"
        pipeline = Pipeline(
            batch_size=batch,
            num_threads=self._threads,
            device_id=torch.cuda.current_device() if on_gpu else None,
            exec_pipelined=False,
            exec_async=False,
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
            pixels = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB)
            if self._resize:
                pixels = fn.resize(pixels, size=[self._canvas, self._canvas], antialias=True)
            pipeline.set_outputs(fn.transpose(pixels, perm=[2, 0, 1]))
        pipeline.build()
        return pipeline

    def _run(self, pipeline: Any, images: Sequence[EncodedImage]) -> Tensor:
        pipeline.feed_input("encoded", list(images))
        (decoded,) = pipeline.run()
        if self._device.type != "cuda":
            return torch.from_numpy(np.array(decoded.as_tensor()))  # a copy: DALI reuses its buffer
        from nvidia.dali.plugin.pytorch import feed_ndarray

        canvas = torch.empty(len(images), 3, self._canvas, self._canvas, dtype=torch.uint8, device=self._device)
        # Blocks this thread until the copy is done, so that DALI may reuse its buffer and any stream may read ours.
        feed_ndarray(decoded.as_tensor(), canvas, cuda_stream=torch.cuda.current_stream(self._device))
        return canvas
