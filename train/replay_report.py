"""What a replay tells its reader: where a broken step began, in words."""

from contextlib import closing
from typing import TYPE_CHECKING, Any

from pipelines.manifest import SplitIndex
from train.config import PretrainConfig

if TYPE_CHECKING:
    from train.witness import Examination

_TOLD = 5
"""Samples and parameters that are told one by one."""


def verdict(examined: "Examination", run_precision: str, precision: str) -> str:
    """Where it began, in one sentence."""
    step, module = examined.step, examined.module
    if not examined.broken and precision != run_precision:
        return f"all is finite in {precision}: the overflow was that of {run_precision}"
    if not examined.broken:
        return "all is finite in this replay: other software, another device or order of sums made the difference"
    if examined.weights_not_finite:
        return f"it began before step {step}: the checkpoint has it already; go on from an earlier one"
    if examined.views_not_finite:
        return f"it began in the views of step {step}"
    if module and (examined.projections_not_finite or examined.loss is None):
        where = "in" if module.inputs_finite else "just before"
        return f"it began {where} {module.name} ({module.kind}) in step {step}"
    if examined.projections_not_finite or examined.loss is None:
        return f"it began in the {'projections' if examined.projections_not_finite else 'loss'} of step {step}"
    if examined.gradients_not_finite:
        return f"it began in the backward of step {step}, at the gradient of {examined.gradients_not_finite[0]}"
    return f"it began in the update of step {step}: gradients are finite, weights are not"


def notes(run: PretrainConfig, asked: PretrainConfig, world_size: int, *, draws_in_forward: bool) -> list[str]:
    """How this process differs from the ranks of the run."""
    told = []
    if asked.precision != run.precision:
        told.append(f"the steps before it were repeated in {asked.precision} too")
    if world_size == 1:
        return told
    told.append(f"the run had {world_size} ranks: here sums are added in another order")
    if run.global_batchnorm:
        told.append("BatchNorm's statistics over all ranks are computed by one process")
    elif run.micro_batch and run.global_batch // world_size % run.micro_batch:
        told.append("micro-batches hold other images than on the ranks, and BatchNorm's statistics are theirs")
    if draws_in_forward:
        told.append("dropout and stochastic depth draw other numbers than on the ranks")
    if run.ddp.comm_hook != "none":
        told.append(f"gradients are not rounded to {run.ddp.comm_hook}, as they were between ranks")
    return told


def places(split: SplitIndex, config: PretrainConfig, examined: "Examination") -> list[dict[str, Any]]:
    """Where the samples lie in which it began, as far as rows tell; the first few."""
    from pipelines.store import Store

    of_module = examined.module.samples if examined.module else []
    with closing(Store(split, config.data)) as store:
        return [
            {"id": sample, "shard": split.shards[int(split.samples[sample]["shard"])].file, "key": store.key(sample)}
            for sample in (examined.views_not_finite or of_module or examined.projections_not_finite)[:_TOLD]
        ]


def as_text(report: dict[str, Any]) -> str:
    """The report for a reader."""
    least, largest = report["views_range"]
    module, images = report["module"], report["global_batch"]
    lines = [
        f"step {report['recorded_step']} of {report['run_dir']}, from step {report['from_step']} in "
        f"{report['precision']} on {report['device']}",
        report["verdict"],
        f"weights      {_told(report['weights_not_finite'])}{_listed(report['largest_weight'])}",
        f"views        {_told(report['views_not_finite'], images) if largest is None else f'{least:g} to {largest:g}'}",
    ]
    if module:
        inputs = "finite" if module["inputs_finite"] else "not finite"
        lines.append(
            f"first module {module['name']} ({module['kind']}), output not finite"
            + (f" for {_some(module['samples'], images)}" if module["samples"] else "")
            + f"; inputs {inputs}, largest finite one {module['largest_finite_input']:.3g}"
        )
    seen = report["gradients_not_finite"] or report["largest_gradients"]
    gradients = _told(report["gradients_not_finite"]) if seen else "overflowed; fp16 left the update out"
    lines += [
        f"projections  {_told(report['projections_not_finite'], images)}",
        f"loss         {'not finite' if report['loss'] is None else format(report['loss'], '.4f')}",
        f"gradients    {gradients}{_listed(report['largest_gradients'])}",
        f"update       {'weights ' if report['weights_lost'] else ''}{_told(report['weights_lost'])}",
        *(f"sample {sample['id']}: {sample['shard']} {sample['key']}" for sample in report["samples"]),
        *(f"note: {note}" for note in report["notes"]),
    ]
    return "\n".join(lines)


def _listed(named: dict[str, float]) -> str:
    return "; largest: " * bool(named) + ", ".join(f"{number:.3g} {name}" for name, number in named.items())


def _told(broken: list[Any], images: int = 0) -> str:
    return f"not finite: {_some(broken, images)}" if broken else "finite"


def _some(names: list[Any], images: int) -> str:
    """The first few; all samples in two words."""
    if len(names) == images:
        return f"all {images} samples"
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return f"{', '.join(map(str, names[:_TOLD]))}{more}"
