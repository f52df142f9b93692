"""Studies of head and encoder (Chen et al. 2020, section 4)."""

from eval.errors import EvaluationError
from eval.studies import published
from eval.studies.config import StudyConfig
from eval.studies.study import Cell, Study, numbers_of
from train.config import PretrainConfig

_DEPTH_WORK = {18: 1.0, 34: 2.0, 50: 2.3}
"""Multiplications of a ResNet at width 1 relative to ResNet-18's (1.8, 3.7, 4.1 G at 224 px)."""


def head(config: StudyConfig) -> Study:
    """Every kind of head with every length of z.

    Raises:
        EvaluationError: a length cannot be read.
    """
    dims = numbers_of("dims", config.dims)
    if any(dim.denominator != 1 for dim in dims):
        raise EvaluationError(f"dims = {config.dims}: whole numbers are wanted")
    cells = [Cell(name="none", place=("that of h", "none"), flags=("--head.kind=none",))]
    cells += [
        Cell(name=f"{kind}-{dim}", place=(str(dim), kind), flags=(f"--head.kind={kind}", f"--head.dim={dim}"))
        for dim in dims
        for kind in ("linear", "mlp")
    ]
    return Study(
        name="head",
        title="Kind and output dimension of the projection head",
        source="figure 8",
        axes=("length of z", "head"),
        figure="bars",
        cells=tuple(cells),
        finding="The MLP is better than a linear head (+3 points) and much better than none (more than 10), whatever "
        "the length of z. The bars of figure 8 are not given as numbers.",
        departures=("h is as long as the configuration's encoder makes it; the paper's has 2,048 numbers.",),
    )


def faster() -> Study:
    """What later papers have found to learn more in the same epochs, one by one and together."""
    flags: dict[str, tuple[str, ...]] = {
        "as configured": (),
        "square root rule": ("--optimizer.lr_scaling=sqrt", "--optimizer.base_lr=0.075"),
        "decoupled loss": ("--loss.decoupled=true",),
        "wide head": ("--head.hidden=2048",),
        "three layers": ("--head.layers=3",),
        "crops of a fifth and more": ("--views.crop_area_min=0.2",),
    }
    together = tuple(
        flag for label in ("decoupled loss", "wide head", "crops of a fifth and more") for flag in flags[label]
    )
    flags["decoupled, wide, a fifth"] = together
    return Study(
        name="faster",
        title="What may learn more in the same epochs",
        source="later papers",
        axes=("change",),
        figure="bars",
        cells=tuple(
            Cell(name=label.replace(",", "").replace(" ", "-"), place=(label,), flags=of_cell)
            for label, of_cell in flags.items()
        ),
        finding="The square root rule is better for small batches and few epochs (its table B.1). Decoupling the "
        "positive helps with small batches (Yeh et al. 2022), as do wider and deeper heads (Chen et al. 2020b), and "
        "crops of at least a fifth are the custom at 32 pixels (solo-learn).",
        departures=("One configuration, and nothing tuned beside the one change.",),
    )


def width_depth(config: StudyConfig, base: PretrainConfig) -> Study:
    """Every depth with every width.

    Raises:
        EvaluationError: a depth is unknown, or a width cannot be read.
    """
    depths = numbers_of("depths", config.depths)
    unknown = [str(depth) for depth in depths if depth not in _DEPTH_WORK]
    if unknown:
        raise EvaluationError(f"depths = {config.depths}: {', '.join(unknown)} is not among 18, 34, 50")
    cells = []
    for depth in map(int, depths):
        for times in numbers_of("widths", config.widths):
            width = base.encoder.width * float(times)
            same = depth == 50 and width in published.WIDTHS
            cells.append(
                Cell(
                    name=f"resnet{depth}-x{width:g}",
                    place=(f"ResNet-{depth}", f"{width:g}"),
                    flags=(f"--encoder.name=resnet{depth}", f"--encoder.width={width:g}"),
                    work=_DEPTH_WORK[depth] * float(times) ** 2,
                    published={"linear": published.WIDTHS[width]} if same else {},
                )
            )
    return Study(
        name="width_depth",
        title="Width and depth of the encoder",
        source="figure 7, table 6",
        axes=("depth", "width"),
        figure="points",
        cells=tuple(cells),
        finding="Deeper and wider is better (ResNet-50, 1000 epochs: 69.3 at width 1, 74.2 at 2, 76.5 at 4). The "
        "points of figure 7 are not given as numbers.",
        departures=("Widths are multiples of the configuration's; the paper's are 1, 2 and 4.",),
    )
