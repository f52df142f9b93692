"""Settings of the data plane: which data, how it is read, which views are made of it."""

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and how it is read."""

    dir: str = ""
    """Data set directory made by `python -m pipelines.build_shards`: a path, or a URL such as s3://bucket/directory."""
    canvas: PositiveInt = 32
    """Side in pixels of the square onto which each image is decoded; crops are cut from it. 32 for CIFAR, 256 and more
    for ImageNet."""
    window_shards: PositiveInt = 64
    """Samples are shuffled within windows of this many shuffled shards: more mix better, fewer keep reads together."""
    decode_threads: PositiveInt = 1
    """DALI threads per rank. On two cores 1 was best, beside 2 of torch."""
    prefetch_batches: PositiveInt = 3
    """Batches made ahead of training."""
    bad_sample_budget: ClosedUnitInterval = 0.001
    """Share of the data set's samples that a rank may find damaged before the run stops. Each is replaced by another
    sample, logged and counted."""
    cache: Literal["none", "memory", "disk", "auto"] = "auto"
    """Where decoded canvases are kept, so that later epochs need no decoding. memory: of each rank's device, or of its
    host. disk: a file in cache_dir that the ranks of a node share and later runs find again. auto: memory if all fit
    into an eighth of what is free, else none. Order and views are the same with every setting."""
    cache_dir: str = "~/.cache/diptych"
    """Local directory of cached canvases and of shards fetched from remote data sets."""
    remote: Literal["shards", "ranges"] = "shards"
    """How remote data is read. shards: whole, ahead of their use, kept in cache_dir. ranges: only the samples of each
    batch, by ranged requests, nothing kept; for data larger than a node's disk."""
    shard_cache_bytes: PositiveInt = 200_000_000_000
    """Room for fetched shards in cache_dir; the least recently used give way. Must hold two windows."""
    fetch_threads: PositiveInt = 4
    """Shards that a rank fetches at once."""


Operation = Literal["crop", "flip", "rotation", "jitter", "grayscale", "blur", "sobel", "noise", "cutout"]
"""What is done to a view, in this order."""

PAPER_LEAST_AREA = 0.1
"""Share of the image that a crop of the reference code covers at least, whatever its range of areas:
`min_object_covered` of TensorFlow's sampler, where the object is the whole image."""


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """The random views (Chen et al. 2020, appendix A). Defaults are the paper's for ImageNet."""

    size: PositiveInt = 224
    """Side of a view in pixels."""
    engine: Literal["lean", "kornia"] = "lean"
    """How the drawn operations are computed. kornia: one after another by Kornia's functions, the plain reading. lean:
    the same mathematics in few passes over the pixels, equal to it to 5e-5."""
    reference: Literal["paper", "torchvision"] = "paper"
    """Whose sampler of crops, formulas of colour and border of the blur. paper: the reference code's, which is
    TensorFlow's. torchvision: those of most PyTorch projects."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Of the crop. bicubic is the kernel of the reference code (its TensorFlow 2 version). Unlike there, a crop that is
    shrunk is anti-aliased."""
    crop: Literal["canvas", "source"] = "canvas"
    """What crops are cut from. canvas: the decoded square, on the device. source: the original image, by DALI while it
    decodes, as sharp as it can be; decodes every image anew in every epoch."""
    compile: bool = False
    """Fuse the colour operations with torch.compile; needs a C++ compiler on CPUs."""
    crop_area_min: PositiveFloat = 0.08
    """Smallest share of the image's area that a crop covers."""
    crop_area_max: PositiveFloat = 1.0
    """Largest share of the image's area that a crop covers."""
    flip_probability: ClosedUnitInterval = 0.5
    """Horizontal flip."""
    jitter_probability: ClosedUnitInterval = 0.8
    """Colour jitter as a whole."""
    jitter_strength: NonNegativeFloat = 1.0
    """s: brightness, contrast and saturation vary by 0.8 s, hue by 0.2 s. The paper: 1 on ImageNet, 0.5 on CIFAR-10."""
    jitter_order: Literal["sample", "batch"] = "sample"
    """The random order of the four colour operations: one for each view, as in the paper, or one for all views of a
    global batch, as Kornia and torchvision draw it."""
    grayscale_probability: ClosedUnitInterval = 0.2
    """Grayscale, whether or not colour was jittered."""
    blur_probability: ClosedUnitInterval = 0.5
    """Gaussian blur, sigma uniform in [0.1, 2]; kernel a tenth of the view. The paper uses none on CIFAR-10."""
    rotation_probability: ClosedUnitInterval = 0.0
    """Rotation by 90, 180 or 270 degrees. This and the next three are of the paper's composition study (Fig. 5)."""
    sobel_probability: ClosedUnitInterval = 0.0
    """Sobel filter: each channel becomes the magnitude of its gradient, clipped to 1."""
    noise_probability: ClosedUnitInterval = 0.0
    """Gaussian noise on each pixel and channel."""
    noise_max: PositiveFloat = 0.2
    """Its standard deviation is uniform between 0 and this, where the range of pixels is 1."""
    cutout_probability: ClosedUnitInterval = 0.0
    """A gray square hides part of the view (DeVries and Taylor 2017)."""
    cutout_side: ClosedUnitInterval = 0.5
    """Side of that square as a share of the view's; its centre is uniform over the view, so that it may stick out."""
    first_view_only: tuple[Operation, ...] = ()
    """Operations that the second view is spared, as in the composition study; without its crop, a view is the whole
    image."""

    def __post_init__(self) -> None:
        if not self.crop_area_min <= self.crop_area_max <= 1:
            raise ValueError(
                f"views.crop_area_min = {self.crop_area_min}, views.crop_area_max = {self.crop_area_max}: "
                "must be 0 < min <= max <= 1"
            )
        if self.reference == "paper" and self.crop_area_max < PAPER_LEAST_AREA:
            raise ValueError(
                f"views.crop_area_max = {self.crop_area_max}: views.reference = paper accepts no crop of less than "
                f"{PAPER_LEAST_AREA} of the image; use a larger one, or torchvision"
            )
        if self.jitter_strength > 1.25:
            raise ValueError(f"views.jitter_strength = {self.jitter_strength}: at most 1.25, where contrast reaches 0")
        if self.compile and self.engine != "lean":
            raise ValueError(f"views.compile = true: views.engine = {self.engine} is not compiled; use lean")
