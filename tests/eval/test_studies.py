"""Cells are the paper's, each differs from the configuration in what its study is about, and in nothing else."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_stand_in import CONFIG, fields_of

from eval.config import EvaluationDataConfig
from eval.errors import EvaluationError
from eval.studies import published
from eval.studies.all_studies import open_study
from eval.studies.compositions import composition_flags
from eval.studies.config import STUDIES, StudyConfig
from eval.studies.settings import Settings, check_cells, load_base, runs_of
from eval.studies.study import Study
from pipelines.config import ViewsConfig
from pipelines.draws import draw_views
from train.arguments import parse
from train.config import PretrainConfig


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    base = tmp_path / "base.yaml"
    base.write_text(CONFIG)
    return Settings(base=str(base), data_dir="data", epochs=8)


def study(name: str, settings: Settings, **choices: str) -> Study:
    config = StudyConfig(study=name, base=settings.base, data=EvaluationDataConfig(dir="data"), **choices)  # type: ignore[arg-type]  # each test names its fields
    return open_study(config, load_base(settings))


def resolved(name: str, settings: Settings, **choices: str) -> dict[str, PretrainConfig]:
    return check_cells(study(name, settings, **choices), settings, Path("out"), images=1000)


FEW = {
    "augmentations": {"operations": "crop,colour,sobel"},
    "colour": {"strengths": "1/8,1+blur"},
    "batch_epochs": {"batches": "8,16", "lengths": "1/2,1"},
    "lr_scaling": {"batches": "8,16"},
    "temperature": {"temperatures": "0.1,1"},
    "head": {"dims": "32,64"},
    "width_depth": {"depths": "18,50", "widths": "1,2"},
}
MAY_DIFFER = {
    "augmentations": {"views."},
    "colour": {"views.jitter_strength", "views.blur_probability"},
    "batch_epochs": {"global_batch", "schedule."},
    "lr_scaling": {"global_batch", "optimizer.base_lr", "optimizer.lr_scaling"},
    "temperature": {"loss.temperature", "loss.l2_normalise"},
    "loss": {"loss.name", "loss.semi_hard"},
    "head": {"head.kind", "head.dim"},
    "width_depth": {"encoder.name", "encoder.width"},
    "faster": {
        "optimizer.base_lr",
        "optimizer.lr_scaling",
        "loss.decoupled",
        "head.hidden",
        "head.layers",
        "views.crop_area_min",
    },
}


@pytest.mark.parametrize("name", STUDIES)
def test_cells_differ_only_in_what_is_studied_and_no_two_are_the_same(name: str, settings: Settings) -> None:
    cells = resolved(name, settings, **FEW.get(name, {}))
    base = parse(PretrainConfig, [*settings.flags(), "--schedule.epochs=8", "--schedule.warmup_epochs=0.8"]).numeric()
    for cell in cells.values():
        differing = {field for field, value in cell.numeric().items() if value != base[field]}
        assert not {field for field in differing if not field.startswith(tuple(MAY_DIFFER[name]))}
    assert len({cell.sha256() for cell in cells.values()}) == len(cells)


@pytest.mark.parametrize("name", STUDIES)
def test_every_cell_has_a_place_on_every_axis_that_no_other_has(name: str, settings: Settings) -> None:
    made = study(name, settings)
    assert all(len(cell.place) == len(made.axes) for cell in made.cells)
    assert len({cell.place for cell in made.cells}) == len({cell.name for cell in made.cells}) == len(made.cells)


def test_runs_are_numbered_seed_by_seed(settings: Settings) -> None:
    runs = runs_of(study("loss", settings), (3, 7))
    assert [run.number for run in runs] == list(range(10))
    assert [run.seed for run in runs] == [3] * 5 + [7] * 5
    assert runs[5].name == "nt-xent/seed-7"


def test_the_papers_compositions_have_the_averages_that_it_prints() -> None:
    for row, average in zip(published.COMPOSITIONS, published.COMPOSITION_AVERAGES, strict=True):
        assert np.mean(row) == pytest.approx(average, abs=0.06)


def test_compositions_are_all_singles_and_pairs_once(settings: Settings) -> None:
    cells = study("augmentations", settings).cells
    assert len(cells) == 7 + 21
    assert {frozenset(cell.place) for cell in cells} == {
        frozenset(pair) for pair in product(published.COMPOSED, repeat=2)
    }
    numbers = {cell.place: cell.published["linear"] for cell in cells}
    assert numbers["crop", "colour"] == 56.3
    assert numbers["colour", "cutout"] == 35.5  # the order in which views apply them, not 33.9
    assert numbers["sobel", "sobel"] == 4.0


@given(st.sets(st.sampled_from(published.COMPOSED), min_size=1, max_size=3), st.booleans())
def test_a_composition_draws_its_operations_on_the_asked_branches_and_nothing_else(
    operations: set[str], one_branch: bool
) -> None:
    asked = fields_of(composition_flags(operations, one_branch=one_branch))["views"]
    views = ViewsConfig(**{**asked, "reference": "torchvision"})
    count = 400
    square = np.full(count, 32)
    draws = draw_views(views, np.arange(count), square, square, seed=0, epoch=0)
    seen = {
        "crop": (draws.box != (0, 0, 1, 1)).any(axis=1) | draws.flip,
        "rotation": draws.quarter_turns > 0,
        "colour": draws.jitter | draws.grayscale,
        "blur": draws.blur,
        "sobel": draws.sobel,
        "noise": draws.noise,
        "cutout": draws.cutout,
    }
    for name, drawn in seen.items():
        assert drawn[:count].mean() > 0.7 if name in operations else not drawn.any()
        assert (drawn[count:].mean() > 0.7) == (name in operations and not one_branch)


@pytest.mark.parametrize("rule", ["linear", "sqrt"])
def test_both_rules_give_the_configurations_rate_at_its_batch(rule: str, settings: Settings) -> None:
    settings = replace(settings, training=(f"--optimizer.lr_scaling={rule}",))
    peak = load_base(settings).optimizer.peak_lr(16)
    rates = {
        name: cell.optimizer.peak_lr(cell.global_batch)
        for name, cell in resolved("lr_scaling", settings, batches="4,16,64").items()
    }
    assert rates == pytest.approx(
        {
            "linear-4": peak / 4,
            "sqrt-4": peak / 2,
            f"{rule}-16": peak,
            "linear-64": peak * 4,
            "sqrt-64": peak * 2,
        },
        rel=1e-5,
    )


def test_the_papers_rates_meet_at_4096() -> None:
    assert pytest.approx(0.075 * 4096**0.5) == 0.3 * 4096 / 256


def test_lengths_are_shares_of_the_epochs_with_a_tenth_of_warm_up(settings: Settings) -> None:
    cells = resolved("batch_epochs", settings, batches="8", lengths="1/4,1")
    assert [cell.schedule.epochs for cell in cells.values()] == [2, 8]
    assert [cell.schedule.warmup_epochs for cell in cells.values()] == pytest.approx([0.2, 0.8])


def test_the_papers_numbers_stand_only_beside_batch_and_epochs_that_it_has(settings: Settings) -> None:
    config = StudyConfig(
        study="batch_epochs",
        base=settings.base,
        data=EvaluationDataConfig(dir="data"),
        batches="256,300",
        lengths="1/2,1",
        epochs=200,
    )
    cells = open_study(config, load_base(settings)).cells
    assert {cell.name: cell.published for cell in cells} == {
        "batch-256-length-0.5": {"linear": 57.5},
        "batch-300-length-0.5": {},
        "batch-256-length-1": {"linear": 61.9},
        "batch-300-length-1": {},
    }


def test_strengths_are_those_of_table_1(settings: Settings) -> None:
    cells = resolved("colour", settings)
    strengths = [(cell.views.jitter_strength, cell.views.blur_probability) for cell in cells.values()]
    assert strengths == [(0.125, 0), (0.25, 0), (0.5, 0), (1, 0), (1, 0.5)]
    assert study("colour", settings).cells[-1].published == {"linear": 64.5, "supervised": 75.4}


def test_widths_are_multiples_of_the_configurations(settings: Settings) -> None:
    cells = resolved("width_depth", settings, depths="18,50", widths="1,2")
    assert [(cell.encoder.name, cell.encoder.width) for cell in cells.values()] == [
        ("resnet18", 0.125),
        ("resnet18", 0.25),
        ("resnet50", 0.125),
        ("resnet50", 0.25),
    ]


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("augmentations", {"operations": "crop,shear"}, "shear is not among crop"),
        ("augmentations", {"operations": ","}, "none is not among"),
        ("colour", {"strengths": "1,strong"}, "strengths = strong"),
        ("colour", {"strengths": "1+sobel"}, r"1\+sobel is not a number"),
        ("temperature", {"temperatures": "0"}, "positive numbers"),
        ("head", {"dims": "1/2"}, "whole numbers"),
        ("batch_epochs", {"lengths": "2"}, "at most 1"),
        ("lr_scaling", {"batches": "1,2"}, "whole numbers from 2"),
        ("width_depth", {"depths": "18,101"}, "101 is not among"),
    ],
)
def test_choices_that_cannot_be_made_are_told(
    name: str, choices: dict[str, str], message: str, settings: Settings
) -> None:
    with pytest.raises(EvaluationError, match=message):
        study(name, settings, **choices)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"study": "heads"}, "study = heads: not one of"),
        ({"base": ""}, "config: none named"),
        ({"seeds": "0,x"}, "seeds = 0,x"),
        ({"protocols": "knn,svm"}, "svm"),
        ({"dims": "32"}, "dims: of head; loss has no such choice"),
        ({"budget": "soon"}, "budget = soon"),
        ({"budget": "5m", "epochs": 3}, "give one of them"),
        ({"budget": "5m", "cell": "3"}, "give --epochs"),
        ({"cell": "first"}, "cell = first"),
        ({"cell": "1", "collect": True}, "give one of them"),
    ],
)
def test_bad_settings_are_told_in_one_line(fields: dict[str, object], message: str) -> None:
    data = EvaluationDataConfig(dir="data")
    with pytest.raises(ValueError, match=message):
        StudyConfig(**{"study": "loss", "base": "x.yaml", "data": data, **fields})  # type: ignore[arg-type]


def test_a_cell_that_cannot_be_trained_is_told_with_its_name(settings: Settings) -> None:
    with pytest.raises(EvaluationError, match=r"cell linear-2000: global_batch = 2000, but there are 1,000 images"):
        resolved("lr_scaling", settings, batches="2000")
    with pytest.raises(EvaluationError, match=r"cell batch-8-length-0.05 has 0.05 of them, less than one"):
        resolved("batch_epochs", settings, batches="8", lengths="0.05")
