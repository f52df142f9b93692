"""Sees in which module, weight or gradient of a step something is not finite first."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from model.simclr import SimCLR
from pipelines.loader import Batch
from pipelines.plan import Plan
from train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Module:
    """The first whose output was not finite."""

    name: str
    kind: str
    samples: list[int]
    """Whose rows of the output were not; empty where rows are not samples."""
    inputs_finite: bool
    """If not, it began in a function between the module called before and this one."""
    largest_finite_input: float


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What one step came to, in the order in which it happens. Samples are ids within the split."""

    step: int
    """Updates, this one included."""
    weights_not_finite: list[str]
    """Before the step."""
    largest_weight: dict[str, float]
    """Magnitude in the parameter that has it."""
    views_not_finite: list[int]
    views_range: tuple[float | None, float | None]
    module: Module | None
    projections_not_finite: list[int]
    loss: float | None
    """None, here and above, for what is not finite."""
    gradients_not_finite: list[str]
    """In the order of backward: the first is the nearest to the loss."""
    largest_gradients: dict[str, float]
    """Norms of the five largest finite ones; none where fp16 left the update out, whose gradients had overflowed."""
    weights_lost: list[str]
    """Not finite after the update alone."""
    broken: bool
    """Learning ends here. Gradients that overflow end it through the weights; fp16 leaves such an update out."""


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What went through a module once, on the device."""

    name: str
    kind: str
    images: slice
    """Of the batch, whose views went through the network."""
    rows: Tensor
    """(rows,) largest magnitudes of the output."""
    largest_input: Tensor
    largest_finite_input: Tensor


class Witness:
    """Sees what goes through a trainer's steps: notes it on the device, tells it after the step."""

    def __init__(self, trainer: Trainer, model: SimCLR) -> None:
        """Watch views, modules without children, and gradients from now on."""
        self._trainer, self._model = trainer, model
        self._make_views = trainer.views
        trainer.views = self._see_views
        model.register_forward_pre_hook(self._see_forward)
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(partial(self._see_module, name))
        trainer.optimizer.optimizer.register_step_pre_hook(self._see_gradients)

    def examine(self, batch: Batch) -> Examination:
        """Make an update and say what it came to."""
        self._calls: list[_Call] = []
        self._norms: dict[str, Tensor] = {}
        self._sample_id, self._next = batch.sample_id, 0
        trained = {name: weight.detach() for name, weight in self._model.named_parameters() if weight.requires_grad}
        before = _numbers({name: weight.abs().amax() for name, weight in trained.items()})
        outcome = self._trainer.train_step(batch)
        after = _numbers({name: weight.abs().amax() for name, weight in trained.items()})
        norms = _numbers(self._norms)
        views = _numbers({"least": self._least_view, "largest": self._view_rows.amax()})
        weights_lost = [name for name, largest in after.items() if largest is None and before[name] is not None]
        gradients_lost = [name for name, norm in reversed(norms.items()) if norm is None]
        projections_lost = self._samples(_by_row(outcome.z))
        loss = _numbers({"loss": outcome.loss})["loss"]
        return Examination(
            step=batch.step + 1,
            weights_not_finite=[name for name, largest in before.items() if largest is None],
            largest_weight=_largest(before, 1),
            views_not_finite=self._samples(self._view_rows),
            views_range=(views["least"], views["largest"]),
            module=self._first_module(),
            projections_not_finite=projections_lost,
            loss=loss,
            gradients_not_finite=gradients_lost,
            largest_gradients=_largest(norms, 5),
            weights_lost=weights_lost,
            broken=None in before.values() or bool(projections_lost or weights_lost) or loss is None,
        )

    def _first_module(self) -> Module | None:
        largest = _numbers({str(place): call.rows.amax() for place, call in enumerate(self._calls)})
        for call, number in zip(self._calls, largest.values(), strict=True):
            if number is None:
                inputs = _numbers({"all": call.largest_input, "finite": call.largest_finite_input})
                images = call.images.stop - call.images.start
                return Module(
                    name=call.name,
                    kind=call.kind,
                    samples=self._samples(call.rows, call.images) if len(call.rows) == 2 * images else [],
                    inputs_finite=inputs["all"] is not None,
                    largest_finite_input=inputs["finite"] or 0.0,
                )
        return None

    def _samples(self, rows: Tensor, images: slice = slice(None)) -> list[int]:
        """Whose row, of one view or the other, is not finite."""
        first, second = rows.isfinite().cpu().chunk(2)
        return list(self._sample_id[images][~(first & second)].tolist())

    def _see_views(self, canvas: Tensor, plan: Plan) -> Tensor:
        views = self._make_views(canvas, plan)
        self._view_rows, self._least_view = _by_row(views), views.amin()
        return views

    def _see_forward(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        """A micro-batch, or all, in the order of the batch; in micro-batches all pass twice."""
        images = len(inputs[0]) // 2
        self._images = slice(self._next, self._next + images)
        self._next = self._images.stop % len(self._sample_id)

    def _see_module(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        given, got = _floats(inputs), _floats(output)
        if given and got:
            finite = given[0].nan_to_num(0.0, 0.0, 0.0)
            self._calls.append(
                _Call(
                    name=name,
                    kind=type(module).__name__,
                    images=self._images,
                    rows=_by_row(got[0]),
                    largest_input=given[0].abs().amax(),
                    largest_finite_input=finite.abs().amax(),
                )
            )

    def _see_gradients(self, *_: Any) -> None:
        """Of the whole batch, without fp16's scale, just before the update."""
        for name, parameter in self._model.named_parameters():
            if parameter.grad is not None:  # float64: a sum of squares overflows long before a gradient does
                self._norms[name] = vector_norm(parameter.grad.double())


def _floats(value: Any) -> list[Tensor]:
    """The tensors of floats that a module takes or gives, without graph."""
    values = value if isinstance(value, tuple) else (value,)
    return [x.detach() for x in values if isinstance(x, torch.Tensor) and x.is_floating_point()]


def _by_row(x: Tensor) -> Tensor:
    """(n, ...) -> (n,) largest magnitudes; not finite where anything is not."""
    return x.detach().abs().reshape(len(x), -1).amax(1)


def _numbers(named: dict[str, Tensor]) -> dict[str, float | None]:
    """Scalars on the host, waiting once; None for what is not finite."""
    values = torch.stack([value.detach().double() for value in named.values()]).tolist() if named else []
    return {name: value if math.isfinite(value) else None for name, value in zip(named, values, strict=True)}


def _largest(named: dict[str, float | None], count: int) -> dict[str, float]:
    finite = [(name, number) for name, number in named.items() if number is not None]
    return dict(sorted(finite, key=lambda item: item[1], reverse=True)[:count])
