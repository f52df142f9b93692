"""Studies of the views: which augmentations, and how strong (Chen et al. 2020, section 3)."""

from eval.errors import EvaluationError
from eval.studies import published
from eval.studies.compositions import composition_flags, in_order
from eval.studies.config import StudyConfig, words_of
from eval.studies.study import Cell, Study, numbers_of


def augmentations(config: StudyConfig) -> Study:
    """Single operations and pairs.

    Raises:
        EvaluationError: an operation is unknown.
    """
    operations = words_of(config.operations)
    unknown = [name for name in operations if name not in published.COMPOSED]
    if unknown or not operations:
        known = ", ".join(published.COMPOSED)
        raise EvaluationError(f"operations = {config.operations}: {', '.join(unknown) or 'none'} is not among {known}")
    singles = [(name, name) for name in operations]
    pairs = [in_order(a, b) for i, a in enumerate(operations) for b in operations[i + 1 :]]
    place = published.COMPOSED.index
    cells = tuple(
        Cell(
            name="-".join(dict.fromkeys(pair)),
            place=pair,
            flags=composition_flags(set(pair), one_branch=config.branches == "one"),
            published={"linear": published.COMPOSITIONS[place(pair[0])][place(pair[1])]},
        )
        for pair in (*singles, *pairs)
    )
    branches = {
        "one": "Operations apply to the first view only; the second is the whole image. The paper cuts one random "
        "crop, common to both views, before that.",
        "both": "Operations apply to both views; the paper spares the second one.",
    }
    return Study(
        name="augmentations",
        title=f"Compositions of augmentations, on {config.branches} branch{'es' * (config.branches == 'both')}",
        source="figure 5",
        axes=("first operation", "second operation"),
        figure="matrix",
        cells=cells,
        finding="No operation suffices alone; crop with colour stands out.",
        departures=(
            branches[config.branches],
            "A pair is applied in one order, that of views (docs/views.md); the paper has both orders, which differ "
            "by up to 4 points.",
            "Each operation is applied always, but jitter (0.8) and grayscale (0.2), which are colour; flip (0.5) goes "
            "with crop; rotation is by 0, 90, 180 or 270 degrees. The paper does not say how often.",
        ),
    )


def colour(config: StudyConfig) -> Study:
    """Strengths of the colour jitter.

    Raises:
        EvaluationError: a strength cannot be read.
    """
    cells = []
    for word in words_of(config.strengths):
        strength, _, blur = word.partition("+")
        if blur not in ("", "blur"):
            raise EvaluationError(f"strengths = {config.strengths}: {word} is not a number, nor one with +blur")
        (number,) = numbers_of("strengths", strength)
        label = f"{number}{' + blur' if blur else ''}"
        simclr, supervised = published.COLOUR.get(label, (None, None))
        cells.append(
            Cell(
                name=f"strength-{float(number):g}{'-blur' if blur else ''}",
                place=(label,),
                flags=(
                    f"--views.jitter_strength={float(number):g}",
                    f"--views.blur_probability={0.5 if blur else 0.0}",
                ),
                published={"linear": simclr, "supervised": supervised} if simclr and supervised else {},
            )
        )
    return Study(
        name="colour",
        title="Strength of the colour jitter, for SimCLR and for a supervised network",
        source="table 1",
        axes=("strength",),
        figure="bars",
        cells=tuple(cells),
        finding="Stronger colour helps SimCLR (59.6 to 64.5) and hurts the supervised network (77.0 to 75.4).",
        departures=("AutoAugment, the paper's last column, is left out: it is not among the views here.",),
        columns=("supervised",),
    )
