"""JPEG files read and decoded by torchvision, in a torch DataLoader."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class _Files(Dataset[Tensor]):
    def __init__(self, directory: str) -> None:
        self._paths = sorted(str(path) for path in Path(directory).iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        pixels: Tensor = decode_jpeg(read_file(self._paths[index]), mode=ImageReadMode.RGB)
        return pixels


def decoded(files: str, batch: int) -> Iterator[Tensor]:
    """Shuffled, in this process: a worker would share the one core and send every batch through shared memory."""
    torch.set_num_threads(1)
    loader = DataLoader(_Files(files), batch_size=batch, shuffle=True, drop_last=True)
    while True:
        yield from loader
