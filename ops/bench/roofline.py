"""What a step cannot beat on this device: arithmetic by a large product, memory by a large copy, data by the loader.

Limits are measured, not read from a data sheet: they are those of this machine in its present state. A share of them
says what is left to gain, and which of the three is near.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from train.config import PretrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipelines.loader import Batch
    from pipelines.plan import Plan

_PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
"""Of the square matrices; torch's libraries are near their peak from about these on."""
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Far more than the caches hold."""
_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """The limits, and what an image needs of them."""

    flops_per_image: float
    """Of encoder and head for both views, forward and backward; a multiplication and an addition count as two."""
    peak_flops: float
    """Per second, in the precision of the step."""
    view_bytes_per_image: float
    """That the operators of both views move."""
    copy_bytes_per_second: float
    """Read and written."""
    loader_images_per_second: float
    """When nothing else runs."""

    def mfu(self, images_per_second: float) -> float:
        """Model FLOPs utilisation (Chowdhery et al. 2022): what is done of the arithmetic that could be."""
        return images_per_second * self.flops_per_image / self.peak_flops

    @property
    def view_seconds_per_image(self) -> float:
        """That both views take at least, if their operators move all they move as fast as a copy does."""
        return self.view_bytes_per_image / self.copy_bytes_per_second


def measure_roofline(
    config: PretrainConfig, canvas: "Tensor", plan: "Plan", loader: Iterable["Batch"], warm_up_batches: int
) -> Roofline:
    """Measure the limits one after another.

    Args:
        config: of the run.
        canvas: of a batch, on the device.
        plan: of its views.
        loader: batches, read as they are asked for.
        warm_up_batches: of these, the first that are not timed.
    """
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    return Roofline(
        flops_per_image=flops_per_image(config),
        peak_flops=peak_flops(canvas.device, dtype),
        view_bytes_per_image=view_bytes(config, canvas, plan) / (len(plan) / 2),
        copy_bytes_per_second=copy_bytes_per_second(canvas.device),
        loader_images_per_second=loader_images_per_second(loader, warm_up_batches),
    )


def flops_per_image(config: PretrainConfig) -> float:
    """Of a source image's two views through encoder and head, forward and backward; nothing is computed.

    Convolutions and matrix products, as torch counts them: the rest of the network, the loss and the optimizer are not
    among them. Activations that are computed again (checkpoint_activations, micro_batch) count once.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from model.simclr import SimCLR

    images = 2
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = SimCLR(config.encoder, config.head, config.views.size)
        counter = FlopCounterMode(display=False)
        with counter:
            z, _ = model(torch.zeros(2 * images, 3, config.views.size, config.views.size))
            z.sum().backward()
    return float(counter.get_total_flops()) / images


def peak_flops(device: "torch.device", dtype: "torch.dtype", side: int = 0) -> float:
    """Per second, of the fastest of a few products of square matrices; float32 with TF32 if that is on.

    Args:
        device: where.
        dtype: of the matrices.
        side: of the matrices; 0 for one that suits the device.
    """
    import torch

    side = side or _PRODUCT_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _fastest(lambda: torch.mm(a, b, out=out), device)


def copy_bytes_per_second(device: "torch.device", size: int = 0) -> float:
    """Read and written by the fastest of a few copies within the device's memory, of `size` bytes, or of enough."""
    import torch

    source = torch.ones(size or _COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)


def view_bytes(config: PretrainConfig, canvas: "Tensor", plan: "Plan") -> int:
    """That the views' operators move for a batch, each for itself: fused ones (views.compile) move less."""
    import torch

    from ops.bench.counting import bytes_moved
    from pipelines.augment import TwoViews

    views = TwoViews(replace(config.views, compile=False), torch.float32)
    return bytes_moved(lambda: views(canvas, plan))


def loader_images_per_second(batches: Iterable["Batch"], warm_up_batches: int) -> float:
    """Read, decode and draw without learning, in this thread."""
    images, start = 0, time.perf_counter()
    for number, batch in enumerate(batches):
        if number < warm_up_batches:
            start = time.perf_counter()
        else:
            images += len(batch.sample_id)
    return images / (time.perf_counter() - start)


def roofline_lines(roofline: Roofline, images_per_second: float) -> list[str]:
    """One for each limit, beside the rate of a whole step."""
    step_seconds = 1 / images_per_second
    return [
        f"model      {_with_unit(roofline.flops_per_image)}FLOP per image, "
        f"{_with_unit(images_per_second * roofline.flops_per_image)}FLOP/s; a large product reaches "
        f"{_with_unit(roofline.peak_flops)}FLOP/s: MFU {roofline.mfu(images_per_second):.2f}",
        f"views      {_with_unit(roofline.view_bytes_per_image)}B moved per image; a large copy moves "
        f"{_with_unit(roofline.copy_bytes_per_second)}B/s: at least "
        f"{roofline.view_seconds_per_image / step_seconds:.3f} of a step",
        f"loader     {roofline.loader_images_per_second:,.0f} images/s alone: "
        f"{roofline.loader_images_per_second * step_seconds:.1f} times a whole step's",
    ]


def _fastest(work: Any, device: "torch.device") -> float:
    from ops.bench.timing import seconds_of

    work()
    return min(seconds_of(work, device) for _ in range(_REPEATS))


def _with_unit(number: float) -> str:
    """Three figures and a prefix: 12.3 G."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(number) < 999.5:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:,.3g} P"
