"""The command: what it prints and writes, what it does again and what not, and with which status it ends."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from study_stand_in import CONFIG, StandIn

from eval import ablate
from eval.studies.results import MISSING
from pipelines.manifest import open_split


class Command:
    """`python -m eval.ablate` in this process, on stand-ins."""

    def __init__(self, shards: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory, self._shards, self._patch = directory, shards, monkeypatch
        (directory / "base.yaml").write_text(CONFIG)

    def __call__(self, words: str, **stand_in: Any) -> StandIn:
        """Run it; returns the stand-in, which knows what was called."""
        children = StandIn(**stand_in)
        self._patch.setattr(ablate, "Children", lambda _: children)
        study, _, rest = words.partition(" ")
        flags = f"--config {self.directory}/base.yaml --data.dir {self._shards} --output {self.directory}/out {rest}"
        self._patch.setattr(sys, "argv", ["ablate", study, *flags.split()])
        ablate.main()
        return children

    def file(self, name: str) -> Path:
        """One that it wrote."""
        return self.directory / "out" / name


@pytest.fixture
def command(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(shards, tmp_path, monkeypatch)


def trained(children: StandIn) -> list[str]:
    """Directories of the runs that were trained."""
    flags = [word for call in children.calls for word in call if word.startswith("--run_dir=")]
    return ["/".join(flag.split("/")[-2:]) for flag in flags]


def test_a_study_is_trained_scored_and_written_once(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    children = command("head --dims 32 --epochs 2")
    assert trained(children) == [f"{cell}/seed-{seed}" for seed in (0, 1) for cell in ("none", "linear-32", "mlp-32")]
    told = capsys.readouterr()
    assert "3 cells, 6 runs of 2 epochs of 64 images, 1 at once" in told.err.splitlines()[0]
    assert "6 of 6: mlp-32/seed-1: knn 16.0, linear 16.0" in told.err
    assert "| 32 | linear | 14.0 (9.0 to 19.0) | 14.0 (9.0 to 19.0) |" in told.out
    assert "random init 30.0 (knn), 30.0 (linear); raw pixels 40.0 (knn), 40.0 (linear)" in told.out
    assert command.file("head.md").read_text() == told.out
    assert not command("head --dims 32 --epochs 2").calls
    assert capsys.readouterr().out == told.out


def test_results_say_what_was_done(command: Command, shards: Path) -> None:
    command("temperature --temperatures 0.5 --epochs 2 --seeds 3 -- --optimizer.base_lr=1.5")
    results = json.loads(command.file("results.json").read_text())
    assert (results["format"], results["version"], results["study"]) == ("diptych-study", 1, "temperature")
    assert (results["epochs"], results["seeds"], results["settings"]) == (2, [3], ["--optimizer.base_lr=1.5"])
    assert results["data"]["fingerprint"] == open_split(str(shards), "train").manifest.fingerprint
    first, *_ = results["cells"]
    assert first["place"] == {"temperature": "0.5", "similarity": "cosine"}
    assert first["published"] == {"linear": 60.7, "contrastive": 68.2}
    (run,) = first["runs"]
    assert run["scores"] == pytest.approx({"knn": 0.4, "linear": 0.4, "contrastive": 0.35})
    assert run["seconds"] == {"train": 13.2, "score": 5.0}
    assert results["measured_with"] == {"world_size": 1, "hardware": "two cores"}


def test_the_figure_is_drawn_with_what_is_missing_and_is_the_same_each_time(command: Command) -> None:
    words = "augmentations --operations crop,colour --epochs 2 --seeds 0"
    command(f"{words} --cell 2")
    command(f"{words} --collect")
    svg = command.file("augmentations.svg").read_text()
    assert svg.count(">missing<") == 4  # two singles on the diagonal, for kNN and linear
    assert svg.count(">11.0<") == 4  # the pair's cell stands on both sides of it
    assert svg.count(">56.3<") == 1  # the paper's
    assert "1 of 3 runs, the others are missing" in svg
    assert command.file("augmentations.png").read_bytes()[:4] == b"\x89PNG"
    command(f"{words} --collect")
    assert command.file("augmentations.svg").read_text() == svg


@pytest.mark.parametrize(
    "words",
    [
        "head --dims 32",
        "loss",
        "colour --strengths 1",
        "batch_epochs --batches 8 --lengths 1/2,1",
        "width_depth --depths 18,34 --widths 1",
    ],
)
def test_every_study_ends_in_a_table_and_a_figure(words: str, command: Command) -> None:
    command(f"{words} --epochs 2 --seeds 0,1")
    study = words.split(maxsplit=1)[0]
    assert f" {MISSING} |" not in command.file(f"{study}.md").read_text().partition("paper")[0]
    svg = command.file(f"{study}.svg").read_text()
    assert "missing" not in svg
    assert ">linear<" in svg
    assert (">supervised<" in svg) == (study == "colour")
    assert ("resnet18 x0.125, 64 images" in svg) == (study != "width_depth")  # there the network is what is studied


def test_what_is_not_done_is_shown_as_missing_and_not_trained_by_collect(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("lr_scaling --batches 8 --epochs 2 --cell 1")
    capsys.readouterr()
    command("lr_scaling --batches 8 --epochs 2 --collect")
    table = capsys.readouterr().out
    assert f"| 8 | linear | {MISSING} | {MISSING} |" in table
    assert "| 8 | sqrt | 6.0, 1 of 2 seeds | 6.0, 1 of 2 seeds |" in table
    assert "3 of 4 runs are not done." in table


def test_the_list_says_what_is_done_and_makes_nothing(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("lr_scaling --batches 8 --epochs 2 --seeds 0 --list")
    assert not command.file("").exists()
    command("lr_scaling --batches 8 --epochs 2 --seeds 0 --cell 1")
    capsys.readouterr()
    command("lr_scaling --batches 8 --epochs 2 --seeds 0 --list")
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.split()[:5] == ["0", "to", "do", "linear-8/seed-0", "--global_batch=8"]
    assert second.split()[:3] == ["1", "done", "sqrt-8/seed-0"]
    assert "--array=0-1" in last


@pytest.mark.parametrize("variable", ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"])
def test_a_task_of_an_array_makes_the_run_of_its_number_and_writes_no_table(
    variable: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "3")
    assert trained(command("lr_scaling --batches 8 --epochs 2 --cell array")) == ["sqrt-8/seed-1"]
    assert not command.file("results.json").exists()


def test_fewer_images_are_the_same_part_for_all_cells_made_once(command: Command) -> None:
    children = command("lr_scaling --batches 8 --epochs 2 --images 40 --seeds 0")
    directories = {word for call in children.calls for word in call if word.startswith("--data.dir=")}
    assert directories == {f"--data.dir={command.file('data-40')}"}
    part = open_split(str(command.file("data-40")), "train")
    assert [int((part.samples["label"] == label).sum()) for label in range(4)] == [10] * 4
    assert "40 images of" in command.file("lr_scaling.md").read_text()
    assert not command("lr_scaling --batches 8 --epochs 2 --images 40 --seeds 0").calls


def test_the_budget_is_spent_on_epochs_and_recorded(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("lr_scaling --batches 8 --budget 10m --seeds 0", images_per_second=10.0)
    told = capsys.readouterr().err
    plan = json.loads(command.file("budget.json").read_text())
    assert f"2 runs of {plan['epochs']} epochs of 64 images, 1 at once; chosen for 10m: 10 images/s in linear-8" in told
    assert json.loads(command.file("results.json").read_text())["budget"] == plan
    assert f"{plan['epochs']} epochs, chosen for 10m" in command.file("lr_scaling.md").read_text()
    assert not command("lr_scaling --batches 8 --budget 10m --seeds 0").calls
    command("lr_scaling --batches 8 --budget 10m --seeds 0 --collect")


def test_a_run_that_fails_after_others_is_told_at_the_end_and_tried_again(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command("lr_scaling --batches 8 --epochs 2 --seeds 0", fails="sqrt")
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert "1 of 2 runs failed; sqrt-8/seed-0" in told.err.splitlines()[-1]
    assert "sqrt-8, seed 0: " in told.out
    assert "| 8 | linear | 8.0 | 8.0 |" in told.out
    assert len(trained(command("lr_scaling --batches 8 --epochs 2 --seeds 0"))) == 1
    assert "not done" not in command.file("lr_scaling.md").read_text()


def test_a_fault_of_the_first_run_ends_the_study(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command("lr_scaling --batches 8 --epochs 2", fails="seed-0")
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("ended with status 1 (a fault)")


@pytest.mark.parametrize(("outcome", "status"), [({"fails": "seed"}, 1), ({"stops": "seed"}, 75)])
def test_a_task_of_an_array_ends_with_the_status_of_its_run(
    outcome: dict[str, str], status: int, command: Command
) -> None:
    with pytest.raises(SystemExit) as ended:
        command("lr_scaling --batches 8 --epochs 2 --cell 0", **outcome)
    assert ended.value.code == status


def test_a_study_that_is_asked_to_stop_says_so_and_goes_on(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command("lr_scaling --batches 8 --epochs 2 --seeds 0", stops="sqrt")
    assert ended.value.code == 75
    assert "asked to stop; the same command goes on" in capsys.readouterr().err
    assert trained(command("lr_scaling --batches 8 --epochs 2 --seeds 0")) == ["sqrt-8/seed-0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("heads", "study = heads: not one of"),
        ("augmentations --operations crop,shear", "shear is not among"),
        ("lr_scaling --batches 8 --images 41", "images = 41: equally many of each of 4 classes are wanted; use 40"),
        ("lr_scaling --batches 8 --images 4000", "class '"),
        ("lr_scaling --batches 8 --cell 10", "cell = 10: the study has runs 0 to 3"),
        ("lr_scaling --batches 8 --cell array", "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        ("lr_scaling --batches 8 --epoch 3", "epoch: no such field"),
        ("lr_scaling --batches 8 -- --head.dims=3", "head.dims: no such field"),
        ("temperature -- --global_batch=65", "global_batch = 65, but there are 64 images"),
        ("lr_scaling --batches 8 --budget 1m", "budget = 1m: 4 runs of 1 epoch would take"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    words: str, message: str, command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(SystemExit) as ended:
        command(words)
    assert ended.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("ablate: error: ")
    assert message in last


@pytest.mark.slow
def test_a_small_study_runs_from_the_command_line(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(CONFIG)
    flags = f"--config {tmp_path}/base.yaml --data.dir {shards} --output {tmp_path}/out --seeds 0 --jobs 2"
    command = [sys.executable, "-m", "eval.ablate", *["augmentations", "--operations", "crop,colour", "--budget", "3m"]]
    done = subprocess.run([*command, *flags.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [cell["name"] for cell in results["cells"]] == ["crop", "colour", "crop-colour"]
    assert all(set(run["scores"]) == {"knn", "linear"} for cell in results["cells"] for run in cell["runs"])
    assert set(results["controls"]["random_init"]) == {"knn", "linear"}
    assert results["epochs"] == results["budget"]["epochs"] >= 1
    again = subprocess.run([*command, *flags.split()], capture_output=True, text=True, check=False)
    assert again.stdout == done.stdout
    assert " of 3: " not in again.stderr


def test_torch_is_not_imported_by_the_command() -> None:
    script = "import sys, eval.ablate; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
