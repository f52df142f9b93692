"""Studies of the batch: with length of training, and with learning rate (Chen et al. 2020, section 5.2 and B.1)."""

from eval.errors import EvaluationError
from eval.studies import published
from eval.studies.config import StudyConfig
from eval.studies.study import Cell, Study, numbers_of
from train.config import PretrainConfig


def batch_epochs(config: StudyConfig, base: PretrainConfig) -> Study:
    """Every batch for every length.

    Raises:
        EvaluationError: a batch or length cannot be read.
    """
    rule = base.optimizer.lr_scaling
    cells = []
    for length in numbers_of("lengths", config.lengths):
        if length > 1:
            raise EvaluationError(f"lengths = {config.lengths}: shares of the epochs, at most 1, are wanted")
        epochs = (config.epochs or base.schedule.epochs) * length
        for batch in _batches(config, base):
            numbers = published.BATCH_SIZES.get((rule, batch), {})
            same = not config.budget and epochs in numbers
            cells.append(
                Cell(
                    name=f"batch-{batch}-length-{float(length):g}",
                    place=(str(length), str(batch)),
                    flags=(f"--global_batch={batch}",),
                    length=float(length),
                    published={"linear": numbers[int(epochs)]} if same else {},
                )
            )
    return Study(
        name="batch_epochs",
        title="Batch size and length of training",
        source="figure 9",
        axes=("share of the epochs", "batch"),
        figure="bars",
        cells=tuple(cells),
        finding="Larger batches are better in short training (100 epochs, linear rule: 57.5 at batch 256, 64.8 at "
        "8192); in long training the gap nearly closes (800 epochs: 66.6 and 69.0). The paper's numbers stand beside "
        "ours only where batch and epochs are the same.",
        departures=()
        if rule == "linear"
        else (f"The learning rate follows the configuration's rule, {rule}; figure 9 has the linear one.",),
    )


def lr_scaling(config: StudyConfig, base: PretrainConfig) -> Study:
    """Every batch by both rules.

    Raises:
        EvaluationError: a batch cannot be read.
    """
    peak, own = base.optimizer.peak_lr(base.global_batch), base.global_batch
    rates = {"linear": peak * 256 / own, "sqrt": peak / own**0.5}
    cells = [
        Cell(
            name=f"{rule}-{batch}",
            place=(str(batch), rule),
            flags=(f"--global_batch={batch}", f"--optimizer.lr_scaling={rule}", f"--optimizer.base_lr={rate:.6g}"),
            published={"linear": published.BATCH_SIZES[rule, batch][100]}
            if (rule, batch) in published.BATCH_SIZES
            else {},
        )
        for batch in _batches(config, base)
        for rule, rate in rates.items()
        if batch != own or rule == base.optimizer.lr_scaling
    ]
    return Study(
        name="lr_scaling",
        title="Learning rate by the linear and by the square root rule",
        source="table B.1",
        axes=("batch", "rule"),
        figure="bars",
        cells=tuple(cells),
        finding="The square root is better for small batches and few epochs (256 images, 100 epochs: 62.8, linear "
        "57.5). The paper's numbers are those of 100 epochs.",
        departures=(
            f"Both rules give the configuration's learning rate, {peak:g}, at its batch, {own}, which is trained once; "
            "the paper's meet at 4,096.",
        ),
    )


def _batches(config: StudyConfig, base: PretrainConfig) -> tuple[int, ...]:
    text = config.batches or ",".join(str(int(base.global_batch * times)) for times in (0.25, 0.5, 1, 2))
    batches = numbers_of("batches", text)
    if any(batch.denominator != 1 or batch < 2 for batch in batches):
        raise EvaluationError(f"batches = {text}: whole numbers from 2 are wanted")
    return tuple(int(batch) for batch in batches)
