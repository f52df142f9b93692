"""What to build, as asked on the command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.build.argument_types import available_cores
from pipelines.build.build_directory import Part
from pipelines.build.shard_plan import PlanOptions
from pipelines.build.stored_image import Storage
from pipelines.build.textures import TEST_COUNT, TRAIN_COUNT


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Of one build."""

    kind: str
    """textures, cifar10, cifar100, folder, imagenet, torchvision or reshuffle."""
    output: Path
    source: Path | None = None
    seed: int = PlanOptions.seed
    """Of the order, and of the textures themselves."""
    max_count: int = PlanOptions.max_count
    max_size: int = PlanOptions.max_size
    resize: str = Storage.resize
    format: str = Storage.format
    quality: int = Storage.quality
    on_error: str = "fail"
    """fail or skip: what to do about bad images."""
    name: str | None = None
    """Of the data set; by default that of the source. For torchvision, which set."""
    workers: int = field(default_factory=available_cores)
    """Processes."""
    part: Part | None = None
    """The share of this build; None: all shards, and the data set of them."""
    restart: bool = False
    """Throw away what an earlier build left unfinished."""
    dry_run: bool = False
    download: bool = False
    """Let torchvision fetch what is not there."""
    train_count: int = TRAIN_COUNT
    """Of textures."""
    test_count: int = TEST_COUNT

    @property
    def storage(self) -> Storage:
        """How images are stored."""
        return Storage(resize=self.resize, format=self.format, quality=self.quality)

    @property
    def plan(self) -> PlanOptions:
        """What decides the shards' bytes."""
        return PlanOptions(seed=self.seed, max_count=self.max_count, max_size=self.max_size, storage=self.storage)

    @property
    def made(self) -> dict[str, Any]:
        """What the manifest says of the source."""
        counts = {"train_count": self.train_count, "test_count": self.test_count}
        return {"source": self.kind, **(counts if self.kind == "textures" else {})}
