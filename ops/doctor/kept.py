"""What the first epoch leaves behind, so that later ones need not do it again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ops.doctor.hardware import memory_bytes
from pipelines.config import DataConfig, ViewsConfig
from pipelines.manifest import SplitIndex
from pipelines.remote.locations import is_remote

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Of one data set on one node."""

    source: Literal["local", "ranges", "copies"]
    """Of encoded samples: files of this node or its mounts, ranged requests, or copies of remote shards."""
    canvases: Literal["none", "memory", "disk"]
    """Where decoded canvases are kept."""
    pages: bool
    """Local files fit into the memory that is free, so that the page cache will hold them."""
    copies: bool
    """All remote shards fit into the cache of shards."""

    @property
    def reading(self) -> bool:
        """Whether encoded samples are near from the second epoch on."""
        return self.pages if self.source == "local" else self.copies


def what_is_kept(
    split: SplitIndex, data: DataConfig, views: ViewsConfig, device: "torch.device", ranks_on_node: int
) -> Kept:
    """Foresee it, without reading anything."""
    remote = [shard for shard in range(len(split.shards)) if is_remote(split.shard_location(shard))]
    total = sum(shard.bytes for shard in split.shards)
    source: Literal["local", "ranges", "copies"] = "local"
    if remote:
        source = "ranges" if data.remote == "ranges" else "copies"
    return Kept(
        source=source,
        canvases=_canvases(split, data, views, device, ranks_on_node),
        pages=not remote and total <= memory_bytes("MemAvailable"),
        copies=source == "copies" and total <= data.shard_cache_bytes,
    )


def canvas_bytes(split: SplitIndex, side: int) -> int:
    """Of all canvases of a split."""
    return len(split) * side * side * 3


def _canvases(
    split: SplitIndex, data: DataConfig, views: ViewsConfig, device: "torch.device", ranks_on_node: int
) -> Literal["none", "memory", "disk"]:
    from pipelines.canvas_cache import open_canvas_cache

    if views.crop == "source" or data.cache == "none":
        return "none"
    if data.cache == "disk":
        return "disk"
    kept = open_canvas_cache(split, data, device, ranks_on_node) is not None
    return "memory" if kept else "none"
