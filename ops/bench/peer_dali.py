"""DALI's own reader of WebDataset shards, with one thread and the decoder that ours has."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt


def decoded(shards: list[str], batch: int) -> Iterator[npt.NDArray[np.uint8]]:
    """In the order of the shards, which is the least work; the .idx files lie beside them."""
    from nvidia.dali import Pipeline, fn, types

    pipeline: Any = Pipeline(batch_size=batch, num_threads=1, device_id=None)
    with pipeline:
        encoded = fn.readers.webdataset(
            paths=shards,
            index_paths=[f"{shard.removesuffix('.tar')}.idx" for shard in shards],
            ext=["jpg"],
            missing_component_behavior="error",
        )
        pipeline.set_outputs(fn.decoders.image(encoded, device="cpu", output_type=types.RGB))
    pipeline.build()
    while True:
        (pixels,) = pipeline.run()
        yield np.asarray(pixels.as_tensor())
