"""Which source a build reads, by the name of the command."""

from pathlib import Path

from pipelines.build import cifar, textures
from pipelines.build.build_options import BuildOptions
from pipelines.build.dataset_source import dataset_source
from pipelines.build.imagenet import imagenet_source
from pipelines.build.sources import Source, folder_source
from pipelines.build.torchvision_source import torchvision_source
from pipelines.errors import DataError


def open_source(options: BuildOptions, scratch: Path) -> Source:
    """List everything there is to build from.

    Args:
        options: of the build.
        scratch: directory for what has to be unpacked or downloaded; must live as long as items are read.

    Raises:
        DataError: the source is refused.
    """
    path, spool = options.source, scratch / "spool"
    if options.kind == "textures":
        return textures.textures_source(options.seed, options.train_count, options.test_count)
    if options.kind in ("cifar10", "cifar100"):
        which = cifar.CIFAR10 if options.kind == "cifar10" else cifar.CIFAR100
        return cifar.cifar_source(which, path or cifar.downloaded(which, scratch), spool)
    if path is None:
        raise ValueError(f"{options.kind} without a source")
    match options.kind:
        case "imagenet":
            return imagenet_source(path)
        case "torchvision":
            return torchvision_source(str(options.name), path, spool, download=_may_download(options))
        case "reshuffle":
            return dataset_source(path, options.storage)
        case _:
            return folder_source(path, spool)


def _may_download(options: BuildOptions) -> bool:
    """Whether the source may fetch what is not there.

    Raises:
        DataError: parts are to.
    """
    if options.download and options.part is not None:
        raise DataError("--download: every part would fetch the same; fetch it first, with --dry-run instead of --part")
    return options.download
