"""Repeat the step in which a run broke down, and show where in it that began.

    python -m train.replay RUN/non_finite/step-00001234 --precision fp32

A step is a function of seed and step, and a checkpoint holds the whole state: so the run goes on from its newest
checkpoint, in one process with the whole global batch, until something is not finite. Nothing is written.
"""

import json
import logging
import math
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from model.errors import ModelError
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex
from pipelines.order import IdArray, rank_positions
from train.arguments import parse
from train.config import DDPConfig, PretrainConfig, load_config
from train.distributed import environment_world_size, fail, make_accelerator, share_cores
from train.errors import RunError
from train.pretrain import build, open_data

if TYPE_CHECKING:
    from torch import Tensor, nn

    from model.simclr import SimCLR
    from pipelines.loader import Batch
    from pipelines.plan import Plan
    from train.checkpoint import Checkpoint
    from train.loop import Trainer

_TOLD = 5
"""Samples and parameters that are told one by one."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Repetition of the step in which a run broke down, in one process with the whole global batch."""

    record: str = ""
    """Directory RUN/non_finite/step-N; the flag may be left out."""
    precision: Literal["run", "fp32", "bf16"] = "run"
    """run: the run's own. fp32 shows whether only bf16 or fp16 overflowed."""
    device: Literal["run", "auto", "cpu", "cuda"] = "run"
    """run: the run's own. It must hold the whole global batch."""
    from_checkpoint: str = ""
    """Directory of checkpoints from whose newest to go on, instead of the run's. start: from new weights."""
    json: bool = False
    """Print JSON instead of text."""

    def __post_init__(self) -> None:
        if not self.record:
            raise ValueError("record: none named; give RUN/non_finite/step-N of a run that broke down")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the ranks left when they stopped."""

    directory: Path
    step: int
    """Of the batch, from 0."""
    world_size: int
    sample_id: IdArray
    """(global batch,), in its order."""

    @property
    def run_dir(self) -> Path:
        """That the record lies in."""
        return self.directory.absolute().parents[1]


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


def main() -> None:
    """Refuse what is wrong before torch is imported, then repeat and report."""
    share_cores()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        config = parse(ReplayConfig, name_record(sys.argv[1:]), prog="replay")
        report = replay(config, read_record(Path(config.record)))
    except (RunError, DataError, ModelError) as error:
        fail("replay", error, show=True)
    print(json.dumps(report, indent=1) if config.json else as_text(report))


def name_record(arguments: Sequence[str]) -> list[str]:
    """Put `--record=` before the first argument that is neither a flag nor a flag's value."""
    named = list(arguments)
    for i, (before, word) in enumerate(zip(["", *named], named, strict=False)):
        if not word.startswith("-") and not (before.startswith("--") and "=" not in before):
            named[i] = f"--record={word}"
            break
    return named


def read_record(directory: Path) -> Record:
    """Join what the ranks wrote.

    Raises:
        RunError: a rank's file is missing or is not one that train/non_finite.py writes.
    """
    if not directory.is_dir():
        raise RunError(f"{directory}: no such directory; give RUN/non_finite/step-N of a run that broke down")
    first = _read_rank(directory, 0)
    step, world_size = int(first["step"]), int(first["world_size"])
    sample_id = np.empty(len(first["sample_id"]) * world_size, dtype=np.int64)
    for rank in range(world_size):
        part, places = _read_rank(directory, rank), rank_positions(len(sample_id), rank, world_size)
        if (part["step"], part["world_size"], len(part["sample_id"])) != (step, world_size, len(places)):
            raise RunError(f"{directory}: rank-{rank}.json is of another run than rank-0.json; keep those of one")
        sample_id[places] = part["sample_id"]
    return Record(directory=directory, step=step, world_size=world_size, sample_id=sample_id)


def _read_rank(directory: Path, rank: int) -> dict[str, Any]:
    path = directory / f"rank-{rank}.json"
    kinds = {"step": int, "world_size": int, "sample_id": list}
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; a record has one of every rank, on the node where it ran") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from None
    known = isinstance(content, dict) and content.get("format") == "diptych-batch"
    if not known or not all(type(content.get(name)) is kind for name, kind in kinds.items()):
        raise RunError(f"{path}: not the record of a batch that was not finite")
    return dict(content)


def replay(config: ReplayConfig, record: Record) -> dict[str, Any]:
    """Repeat until something is not finite, at most to the step of the record.

    Returns:
        What `--json true` prints.

    Raises:
        RunError: the run, its checkpoint or room on the device is missing, or the batch is not that of the record.
        DataError: the data is missing or damaged.
    """
    if environment_world_size() != 1:
        raise RunError("replay runs in one process; start it with python, not with a launcher")
    if not (record.run_dir / "config.yaml").is_file():
        raise RunError(f"{record.run_dir}: no config.yaml; the record must lie in RUN/non_finite of its run")
    run = load_config(record.run_dir / "config.yaml")
    if len(record.sample_id) != run.global_batch:
        raise RunError(f"{record.directory}: {len(record.sample_id)} samples, but global_batch = {run.global_batch}")
    asked = as_asked(run, config, record.world_size)
    split = open_data(asked, 1)
    import torch

    accelerator = make_accelerator(asked)
    checkpoint = load_checkpoint(config, record)
    trainer, model = build(asked, split, accelerator, checkpoint)
    first_step = checkpoint.step if checkpoint else 0
    try:
        examined = examine_until_broken(asked, split, trainer, model, first_step, record)
    except torch.OutOfMemoryError:
        raise RunError(
            f"global_batch = {run.global_batch}: too much for {accelerator.device} at once; use --device cpu"
        ) from None
    return {
        "run_dir": str(record.run_dir),
        "recorded_step": record.step + 1,
        "from_step": first_step,
        "world_size": record.world_size,
        "precision": asked.precision,
        "device": str(accelerator.device),
        "global_batch": run.global_batch,
        "verdict": verdict(examined, run.precision, asked.precision),
        **asdict(examined),
        "samples": places(split, asked, examined),
        "notes": notes(run, asked, record.world_size, draws_in_forward=trainer.draws_in_forward),
    }


def as_asked(run: PretrainConfig, config: ReplayConfig, world_size: int) -> PretrainConfig:
    """The run's configuration for one process; what does not touch the numbers is left out."""
    # A micro-batch of one rank's images gives BatchNorm the statistics that this rank had.
    by_rank = run.global_batch // world_size if world_size > 1 and not run.global_batchnorm else 0
    return replace(
        run,
        precision=run.precision if config.precision == "run" else config.precision,
        device=run.device if config.device == "run" else config.device,
        micro_batch=run.micro_batch or by_rank,
        data=replace(run.data, bad_sample_budget=1.0),  # of each rank, all of which this process replaces
        views=replace(run.views, compile=False),
        probe=replace(run.probe, enabled=False),
        ddp=DDPConfig(),
        compile=False,  # hooks see nothing inside
    )


def load_checkpoint(config: ReplayConfig, record: Record) -> "Checkpoint | None":
    """The newest; where there is none, the step is repeated from the start.

    A run that has broken down writes no more checkpoints, so that the newest lies before the step.

    Raises:
        RunError: there is none where one was named, or it lies after the step.
    """
    from train.checkpoint import load_latest

    if config.from_checkpoint == "start":
        return None
    directory = Path(config.from_checkpoint) if config.from_checkpoint else record.run_dir / "checkpoints"
    checkpoint = load_latest(directory)
    if checkpoint is None and config.from_checkpoint:
        raise RunError(f"from_checkpoint = {directory}: has no checkpoint step-N")
    if checkpoint is not None and checkpoint.step > record.step:
        raise RunError(
            f"{directory}: its newest checkpoint was made after {checkpoint.step} updates, but update "
            f"{record.step + 1} is to be repeated; name a directory of earlier ones with --from_checkpoint, or start"
        )
    return checkpoint


def examine_until_broken(
    config: PretrainConfig, split: SplitIndex, trainer: "Trainer", model: "SimCLR", first_step: int, record: Record
) -> Examination:
    """Make updates until one is broken, or that of the record is made.

    Raises:
        RunError: the batch of the record's step has other samples.
    """
    from tqdm import tqdm

    from pipelines.loader import Share, training_batches
    from pipelines.prefetch import Prefetch

    share = Share(global_batch=config.global_batch, seed=config.seed, first_step=first_step, last_step=record.step + 1)
    stop = threading.Event()
    batches = training_batches(split, config.data, config.views, share, trainer.accelerator.device, stop=stop)
    witness, examined = Witness(trainer, model), None
    with Prefetch(batches, config.data.prefetch_batches, stop) as ahead:
        for batch in tqdm(ahead, total=record.step + 1 - first_step, unit="step", leave=False, disable=None):
            if batch.step == record.step:
                _refuse_other_samples(batch.sample_id.numpy(), record)
            if examined is None or not examined.broken:
                examined = witness.examine(batch)
    assert examined is not None  # noqa: S101  # first_step is at most the record's
    return examined


def _refuse_other_samples(sample_id: IdArray, record: Record) -> None:
    differing = np.flatnonzero(sample_id != record.sample_id)
    if len(differing):
        place = int(differing[0])
        raise RunError(
            f"{record.directory}: {len(differing)} samples of the batch differ from data.dir's; the first, in place "
            f"{place}, was {record.sample_id[place]} and is {sample_id[place]}; give the data that the run had"
        )


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What went through a module once, on the device."""

    name: str
    kind: str
    images: slice
    """Of the batch, whose views went through the network."""
    rows: "Tensor"
    """(rows,) largest magnitudes of the output."""
    largest_input: "Tensor"
    largest_finite_input: "Tensor"


class Witness:
    """Sees what goes through a trainer's steps: notes it on the device, tells it after the step."""

    def __init__(self, trainer: "Trainer", model: "SimCLR") -> None:
        """Watch views, modules without children, and gradients from now on."""
        self._trainer, self._model = trainer, model
        self._make_views = trainer.views
        trainer.views = self._see_views
        model.register_forward_pre_hook(self._see_forward)
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(partial(self._see_module, name))
        trainer.optimizer.optimizer.register_step_pre_hook(self._see_gradients)

    def examine(self, batch: "Batch") -> Examination:
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

    def _samples(self, rows: "Tensor", images: slice = slice(None)) -> list[int]:
        """Whose row, of one view or the other, is not finite."""
        first, second = rows.isfinite().cpu().chunk(2)
        return list(self._sample_id[images][~(first & second)].tolist())

    def _see_views(self, canvas: "Tensor", plan: "Plan") -> "Tensor":
        views = self._make_views(canvas, plan)
        self._view_rows, self._least_view = _by_row(views), views.amin()
        return views

    def _see_forward(self, _: "nn.Module", inputs: "tuple[Tensor]") -> None:
        """A micro-batch, or all, in the order of the batch; in micro-batches all pass twice."""
        images = len(inputs[0]) // 2
        self._images = slice(self._next, self._next + images)
        self._next = self._images.stop % len(self._sample_id)

    def _see_module(self, name: str, module: "nn.Module", inputs: Any, output: Any) -> None:
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
        from torch.linalg import vector_norm

        for name, parameter in self._model.named_parameters():
            if parameter.grad is not None:  # float64: a sum of squares overflows long before a gradient does
                self._norms[name] = vector_norm(parameter.grad.double())


def _floats(value: Any) -> "list[Tensor]":
    """The tensors of floats that a module takes or gives, without graph."""
    import torch

    values = value if isinstance(value, tuple) else (value,)
    return [x.detach() for x in values if isinstance(x, torch.Tensor) and x.is_floating_point()]


def _by_row(x: "Tensor") -> "Tensor":
    """(n, ...) -> (n,) largest magnitudes; not finite where anything is not."""
    return x.detach().abs().reshape(len(x), -1).amax(1)


def _numbers(named: "dict[str, Tensor]") -> dict[str, float | None]:
    """Scalars on the host, waiting once; None for what is not finite."""
    import torch

    values = torch.stack([value.detach().double() for value in named.values()]).tolist() if named else []
    return {name: value if math.isfinite(value) else None for name, value in zip(named, values, strict=True)}


def _largest(named: dict[str, float | None], count: int) -> dict[str, float]:
    finite = [(name, number) for name, number in named.items() if number is not None]
    return dict(sorted(finite, key=lambda item: item[1], reverse=True)[:count])


def verdict(examined: Examination, run_precision: str, precision: str) -> str:
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


def places(split: SplitIndex, config: PretrainConfig, examined: Examination) -> list[dict[str, Any]]:
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


if __name__ == "__main__":
    main()
