"""The epochs that are chosen are the most that fit."""

from dataclasses import replace
from pathlib import Path

import pytest
from study_stand_in import CONFIG, StandIn

from eval.config import EvaluationDataConfig
from eval.errors import EvaluationError
from eval.studies.all_studies import open_study
from eval.studies.budget import RESERVE, Plan, Speed, plan_epochs, run_seconds
from eval.studies.config import StudyConfig, seconds_of
from eval.studies.runs import Work
from eval.studies.settings import Run, Settings, check_cells, load_base, runs_of
from eval.studies.study import Cell

IMAGES = 200
FEW = {
    "lr_scaling": {"batches": "8"},
    "batch_epochs": {"batches": "8", "lengths": "1/4,1"},
    "colour": {"strengths": "1"},
    "width_depth": {"depths": "18,50", "widths": "1"},
}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return work_on("lr_scaling", tmp_path)


def work_on(name: str, directory: Path) -> Work:
    base = directory / "base.yaml"
    base.write_text(CONFIG)
    settings = Settings(base=str(base), data_dir="data", epochs=4)
    config = StudyConfig(study=name, base=str(base), data=EvaluationDataConfig(dir="data"), **FEW[name])  # type: ignore[arg-type]  # texts
    study = open_study(config, load_base(settings))
    return Work(
        study=study,
        settings=settings,
        directory=directory / "out",
        protocols=("knn",),
        supervised_epochs=0,
        wanted=check_cells(study, settings, directory, IMAGES),
    )


def plan(work: Work, asked: str, children: StandIn | None = None, *, jobs: int = 1, images: int = IMAGES) -> Plan:
    return plan_epochs(work, runs_of(work.study, (0, 1)), asked=asked, jobs=jobs, images=images, children=children)


def fixed(stand_in_seconds: float = 10.0) -> float:
    return stand_in_seconds + 5.0  # of scoring


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("asked", ["10m", "1h"])
def test_the_epochs_are_the_most_that_fit_nine_tenths(work: Work, asked: str, jobs: int) -> None:
    chosen = plan(work, asked, StandIn(images_per_second=100), jobs=jobs)
    controls = 2 * fixed()

    def seconds(epochs: int) -> float:
        return (4 * (fixed() + epochs * IMAGES / 100) + controls) / jobs

    planned = (1 - RESERVE) * seconds_of(asked)
    assert seconds(chosen.epochs) <= planned < seconds(chosen.epochs + 1) + 1  # of the second that trying may take here
    assert chosen.expected_seconds == pytest.approx(seconds(chosen.epochs), abs=1)


def test_a_budget_below_one_epoch_is_refused_before_anything_is_trained(work: Work) -> None:
    children = StandIn()
    with pytest.raises(EvaluationError, match=r"budget = 1m: 4 runs of 1 epoch would take about 2 min, 15 s of each"):
        plan(work, "1m", children)
    assert not (work.directory / "budget.json").exists()
    assert not (work.directory / "probe").exists()


def test_the_shortest_cells_of_a_study_of_lengths_get_an_epoch(tmp_path: Path) -> None:
    work = work_on("batch_epochs", tmp_path)
    lengths = {cell.length for cell in work.study.cells}
    assert min(lengths) == 0.25
    assert plan(work, "1h", StandIn()).epochs >= 4
    with pytest.raises(EvaluationError, match="4 runs of 4 epochs would take"):
        plan(replace(work, directory=tmp_path / "other"), "1m", StandIn())


def test_the_supervised_network_is_part_of_the_estimate(tmp_path: Path) -> None:
    cell = Cell(name="a", place=("a",))
    speed = Speed(cell="a", work=1.0, seconds_per_image=0.01, fixed_seconds=7.0)
    assert run_seconds(cell, [speed, speed], images=100, epochs=4) == pytest.approx(7 + 4)
    assert run_seconds(cell, [speed, speed], images=100, epochs=4, supervised=0.5) == pytest.approx(7 + 4 + 2)
    children = StandIn()
    plan(work_on("colour", tmp_path), "1h", children)
    assert not any("supervised.epochs" in word for call in children.calls for word in call)  # it is not tried


def test_cells_of_different_work_are_placed_between_the_two_that_were_tried() -> None:
    low = Speed(cell="a", work=1.0, seconds_per_image=0.01, fixed_seconds=3.0)
    high = Speed(cell="b", work=5.0, seconds_per_image=0.05, fixed_seconds=4.0)
    middle = Cell(name="c", place=("c",), work=3.0)
    assert run_seconds(middle, [low, high], images=100, epochs=2) == pytest.approx(4 + 2 * 100 * 0.03)


def test_a_choice_is_made_once_and_only_for_what_it_was_made_for(work: Work) -> None:
    first = plan(work, "10m", StandIn())
    assert plan(work, "10m") == first  # nobody is asked again
    with pytest.raises(EvaluationError, match=rf"chosen for images = 200, not 100; give --epochs {first.epochs}"):
        plan(work, "10m", images=100)
    (work.directory / "budget.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"budget.json: cannot be read"):
        plan(work, "10m")


def test_what_is_tried_is_the_cheapest_and_the_dearest_cell_for_some_steps(tmp_path: Path) -> None:
    work = work_on("width_depth", tmp_path)
    children = StandIn()
    plan(work, "10h", children)
    trained = [call for call in children.calls if "-m" not in call]
    assert len(trained) == 2
    for call, flags in zip(trained, (("resnet18", "0.125"), ("resnet50", "0.125")), strict=True):
        assert {f"--encoder.name={flags[0]}", f"--encoder.width={flags[1]}", "--stop_after_steps=20"} <= set(call)
    assert list((work.directory).iterdir()) == [work.directory / "budget.json"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("60m", 3600), ("1h30m", 5400), ("60", 0), ("m", 0), ("", 0)]
)
def test_lengths_of_time_are_read(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


def test_training_flags_put_the_cells_after_the_users(work: Work) -> None:
    settings = replace(work.settings, training=("--global_batch=4", "--compile=true"))
    run = Run(number=0, cell=work.study.cell("sqrt-8"), seed=5)
    flags = settings.training_flags(run, Path("out"))
    assert flags.index("--global_batch=8") > flags.index("--global_batch=4")
    assert flags[-2:] == ["--seed=5", "--run_dir=out/sqrt-8/seed-5"]
