"""Value and gradient of NT-Xent for rows of projections, by us and by others: as generators, and counted once.

Only torch is imported here: a peer's Python need not have what ours has.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


def losses(kind: str, rows: int, dim: int, temperature: float) -> Iterator[int]:
    """Number of rows whose loss and gradient were computed, again and again."""
    torch.set_num_threads(1)
    loss, z = made(kind, temperature), projections(rows, dim)
    while True:
        torch.autograd.grad(loss(z), z)
        yield rows


def counted(kind: str, rows: int, dim: int, temperature: float) -> dict[str, float]:
    """Operators dispatched, most bytes held beyond the projections; value, gradient's norm, cosine to a direction."""
    from ops.bench.counting import dispatches, peak_bytes

    torch.set_num_threads(1)
    loss, z = made(kind, temperature), projections(rows, dim)
    result = loss(z)
    (gradient,) = torch.autograd.grad(result, z)
    value, norm = float(result.detach()), float(gradient.norm())
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1))
    along = float((gradient * direction).sum() / direction.norm() / norm)  # a sign or an order would show
    del result, gradient, direction

    def once() -> object:
        return torch.autograd.grad(loss(z), z)

    counts = {"dispatches": dispatches(once), "peak_bytes": peak_bytes(once)}
    return {**counts, "value": value, "gradient_norm": norm, "gradient_along": along}


def projections(rows: int, dim: int) -> Tensor:
    """The same for everybody: rows i and i + rows / 2 are near each other."""
    generator = torch.Generator().manual_seed(0)
    first, noise = torch.randn(2, rows // 2, dim, generator=generator)
    return torch.cat([first, first + 0.5 * noise]).requires_grad_()


def made(kind: str, temperature: float) -> Loss:
    """A loss by its kind: ours, tiles, rows, naive, lightly."""
    if kind == "naive":
        return lambda z: naive(z, temperature)
    if kind == "lightly":
        module: Any = import_module("lightly.loss")
        criterion = module.NTXentLoss(temperature=temperature)
        return lambda z: criterion(*z.chunk(2))
    loss: Any = import_module("model.loss")
    unit_rows: Loss = import_module("model.projections").unit_rows
    if kind == "tiles":
        return lambda z: loss._by_tiles(unit_rows(z), temperature, loss._TILE)
    if kind == "rows":

        def by_rows(z: Tensor) -> Tensor:
            rows = unit_rows(z)
            result: Tensor = loss._by_rows(rows, rows, temperature, loss._CHUNK_BYTES["cpu"] // (4 * len(rows)))
            return result

        return by_rows
    return lambda z: loss.nt_xent(z, temperature)


def naive(z: Tensor, temperature: float) -> Tensor:
    """The whole matrix with its diagonal masked, as most code has it."""
    unit = torch.nn.functional.normalize(z, dim=1)
    similarity = unit @ unit.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    return torch.nn.functional.cross_entropy(similarity, torch.arange(len(z)).roll(len(z) // 2))
