"""DALI's own operators on the CPU, on canvases that are handed in."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ops.bench.views_input import make_canvases
from ops.bench.views_setting import Setting, count_views


def views(setting: dict[str, Any]) -> Iterator[int]:
    """Numbers of views made, with one thread; both views in one graph, each with random numbers of its own.

    Its colour operations have one fixed order, its hue is a rotation about the gray axis, and pixels stay uint8 up to
    the last step: less work than the others do. Only images that are blurred go through the blur.
    """
    from nvidia.dali import fn, pipeline_def, types

    asked = Setting(**setting)
    pixels = np.ascontiguousarray(make_canvases(asked).permute(0, 2, 3, 1).numpy())
    blend, hue = 0.8 * asked.strength, 0.2 * asked.strength

    def chance(probability: float) -> Any:
        return fn.random.coin_flip(probability=probability, dtype=types.DALIDataType.BOOL)

    def jittered(value: Any, jitter: Any, neutral: float) -> Any:
        return jitter * value + (1 - jitter) * neutral

    def view(canvases: Any) -> Any:
        cut = fn.random_resized_crop(
            canvases, size=asked.size, random_area=(0.08, 1.0), random_aspect_ratio=(3 / 4, 4 / 3)
        )
        jitter = chance(0.8)
        factors = [jittered(fn.random.uniform(range=(1 - blend, 1 + blend)), jitter, 1.0) for _ in range(3)]
        return fn.color_twist(
            cut,
            brightness=factors[0],
            contrast=factors[1],
            saturation=factors[2] * (1 - chance(0.2)),
            hue=jittered(fn.random.uniform(range=(-360 * hue, 360 * hue)), jitter, 0.0),
        )

    def finished(coloured: Any) -> Any:
        return fn.crop_mirror_normalize(
            coloured, mirror=fn.random.coin_flip(), mean=0.0, std=255.0, dtype=types.FLOAT, output_layout="CHW"
        )

    @pipeline_def(batch_size=asked.images, num_threads=1, device_id=None, seed=0, enable_conditionals=True)  # type: ignore[untyped-decorator]  # DALI leaves it untyped
    def graph() -> Any:
        canvases = fn.external_source(source=lambda: pixels, batch=True, layout="HWC", no_copy=True)
        first, second = view(canvases), view(canvases)
        if asked.blur:
            if chance(asked.blur):
                first = fn.gaussian_blur(first, window_size=23, sigma=fn.random.uniform(range=(0.1, 2.0)))
            if chance(asked.blur):
                second = fn.gaussian_blur(second, window_size=23, sigma=fn.random.uniform(range=(0.1, 2.0)))
        return finished(first), finished(second)

    pipeline: Any = graph()
    pipeline.build()
    while True:
        yield count_views([np.asarray(part.as_tensor()) for part in pipeline.run()], asked)
