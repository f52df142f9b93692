"""Studies of the loss (Chen et al. 2020, section 5.1)."""

from eval.studies import published
from eval.studies.config import StudyConfig
from eval.studies.study import Cell, Study, numbers_of


def temperature(config: StudyConfig) -> Study:
    """Temperatures, of cosines and of dot products.

    Raises:
        EvaluationError: a temperature cannot be read.
    """
    asked = [("cosine", float(number)) for number in numbers_of("temperatures", config.temperatures)]
    cells = []
    for similarity, tau in (*asked, ("dot product", 10.0), ("dot product", 100.0)):
        contrastive, linear = published.TEMPERATURES.get((similarity, tau), (None, None))
        cells.append(
            Cell(
                name=f"{similarity.split()[0]}-{tau:g}",
                place=(f"{tau:g}", similarity),
                flags=(f"--loss.temperature={tau:g}", f"--loss.l2_normalise={str(similarity == 'cosine').lower()}"),
                published={"linear": linear, "contrastive": contrastive} if linear and contrastive else {},
            )
        )
    return Study(
        name="temperature",
        title="Temperature, and cosine similarity against dot product",
        source="table 5",
        axes=("temperature", "similarity"),
        figure="bars",
        cells=tuple(cells),
        finding="A temperature of 0.1 is best; dot products solve the contrastive task better and represent worse.",
        departures=(
            "The contrastive task is solved among the global batch, at the last logged steps; the paper has 4,096 "
            "examples. Its entropy is left out.",
        ),
        columns=("contrastive",),
    )


def loss() -> Study:
    """NT-Xent and what the paper compares it with."""
    flags: dict[str, tuple[str, ...]] = {
        "NT-Xent": ("--loss.name=nt_xent", "--loss.semi_hard=false"),
        "NT-Logistic": ("--loss.name=nt_logistic", "--loss.semi_hard=false"),
        "NT-Logistic, semi-hard": ("--loss.name=nt_logistic", "--loss.semi_hard=true"),
        "margin triplet": ("--loss.name=margin_triplet", "--loss.semi_hard=false"),
        "margin triplet, semi-hard": ("--loss.name=margin_triplet", "--loss.semi_hard=true"),
    }
    return Study(
        name="loss",
        title="NT-Xent and other losses",
        source="table 4",
        axes=("loss",),
        figure="bars",
        cells=tuple(
            Cell(
                name=label.lower().replace(",", "").replace(" ", "-"),
                place=(label,),
                flags=flags[label],
                published={"linear": number},
            )
            for label, number in published.LOSSES.items()
        ),
        finding="NT-Xent is best; semi-hard negatives help the others and do not suffice.",
        departures=("Temperature and margin are the configuration's for every loss; the paper tuned each.",),
    )
