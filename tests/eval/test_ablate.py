import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from eval import ablate
from eval.ablate import BASE, STUDIES, AblateConfig, run_cell, summary, table
from eval.config import EvaluationDataConfig
from eval.errors import EvaluationError


def config(output: Path, **changes: object) -> AblateConfig:
    fields = {"studies": "head,loss", "base": "cifar.yaml", "output": str(output), "epochs": 6} | changes
    return AblateConfig(data=EvaluationDataConfig(dir="data"), **fields)  # type: ignore[arg-type]  # each test names its fields


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run; scoring leaves a result that tells its seed."""
    made: list[list[str]] = []

    def call(arguments: Sequence[str], directory: Path) -> None:
        made.append(list(arguments))
        if "eval.evaluate" in arguments:
            share = 0.5 + 0.1 * int(directory.name.removeprefix("seed-"))
            scores = {protocol: {"top1": share} for protocol in ablate.PROTOCOLS}
            path = directory / "eval" / "results.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(scores | {"data": {"name": "cifar"}, "controls": {"chance": 0.1}}))

    monkeypatch.setattr(ablate, "_call", call)
    return made


def test_a_cell_is_trained_with_its_flags_after_the_shared_ones_and_then_scored(
    tmp_path: Path, calls: list[list[str]]
) -> None:
    cell = STUDIES["head"][1]
    run_cell(config(tmp_path), cell, seed=1)
    train, score = calls
    assert train[1:] == [
        "--config",
        "cifar.yaml",
        "--data.dir=data",
        "--metrics.port=0",
        "--schedule.epochs=6",
        "--schedule.warmup_epochs=0.6",
        "--head.kind=linear",
        "--seed=1",
        f"--run_dir={tmp_path}/head-linear/seed-1",
    ]
    assert score == ["-m", "eval.evaluate", f"{tmp_path}/head-linear/seed-1", "--protocols", "knn,linear"]


def test_what_is_scored_is_not_run_again(tmp_path: Path, calls: list[list[str]]) -> None:
    first = run_cell(config(tmp_path), BASE, seed=0)
    del calls[:]
    assert run_cell(config(tmp_path), BASE, seed=0) == first
    assert not calls


def test_the_table_has_mean_and_range_over_seeds(tmp_path: Path, calls: list[list[str]]) -> None:
    asked = config(tmp_path, studies="head")
    scores = {(cell, seed): run_cell(asked, cell, seed) for cell in STUDIES["head"] for seed in (0, 1)}
    results = summary(asked, scores)
    assert results["cells"]["base"]["top1"]["knn"] == {"0": 0.5, "1": 0.6}
    assert table("head", results).splitlines()[2] == (
        "| MLP head, NT-Xent | 55.0 (50.0 to 60.0) | 55.0 (50.0 to 60.0) |"
    )


def test_studies_share_the_cell_that_they_start_from() -> None:
    assert all(cells[0] is BASE for cells in STUDIES.values())
    names = [cell.name for cells in STUDIES.values() for cell in cells[1:]]
    assert len(names) == len(set(names))


def test_a_run_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"stopped with status 2 \(pretrain: error: .*cifar.yaml"):
        run_cell(config(tmp_path), BASE, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"studies": "heads"}, "heads is not among head, loss"),
        ({"base": ""}, "config: none named"),
        ({"seeds": "0,x"}, "seeds = 0,x"),
    ],
)
def test_bad_settings_are_told_in_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


@pytest.mark.slow
def test_a_small_study_runs_from_the_command_line(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "small.yaml"
    base.write_text(
        "data: {canvas: 32}\nviews: {size: 32}\nencoder: {name: resnet18, stem: cifar, width: 0.125}\n"
        "schedule: {warmup_epochs: 0}\nglobal_batch: 32\nprecision: fp32\n"
    )
    arguments = f"ablate head --config {base} --data.dir {shards} --output {tmp_path}/out --epochs 1 --seeds 0 --jobs 2"
    monkeypatch.setattr("sys.argv", arguments.split())
    ablate.main()
    printed = capsys.readouterr().out
    assert printed.count("|") > 12
    assert set(json.loads((tmp_path / "out" / "results.json").read_text())["cells"]) == {
        "base",
        "head-linear",
        "head-none",
    }


def test_an_unknown_flag_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ablate", "head", "--config", "x.yaml", "--epoch", "3"])
    with pytest.raises(SystemExit) as stopped:
        ablate.main()
    assert stopped.value.code == 2
    assert "epoch" in capsys.readouterr().err
