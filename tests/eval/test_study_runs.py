"""A run is trained, then scored; what is there is not made again, and what was made otherwise is refused."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from study_stand_in import CONFIG, StandIn
from tiny_run import begun, tiny_run

from eval.config import EvaluateConfig, EvaluationDataConfig
from eval.errors import EvaluationError
from eval.ranks import join_ranks
from eval.studies.all_studies import open_study
from eval.studies.config import StudyConfig
from eval.studies.runs import Children, FailedError, StoppedError, Work
from eval.studies.scores import contrastive_accuracy, encoder_parameters, run_scores, score_of
from eval.studies.settings import Settings, check_cells, load_base, runs_of
from eval.supervised import score_supervised
from train.arguments import parse

FEW = {
    "lr_scaling": {"batches": "8"},
    "head": {"dims": "32"},
    "colour": {"strengths": "1/2,1"},
    "temperature": {"temperatures": "1"},
}


def work_on(name: str, directory: Path, epochs: int = 4) -> Work:
    base = directory / "base.yaml"
    base.write_text(CONFIG)
    settings = Settings(base=str(base), data_dir="data", epochs=epochs)
    config = StudyConfig(study=name, base=str(base), data=EvaluationDataConfig(dir="data"), **FEW[name])  # type: ignore[arg-type]  # texts
    study = open_study(config, load_base(settings))
    return Work(
        study=study,
        settings=settings,
        directory=directory / "out",
        protocols=("knn", "linear"),
        supervised_epochs=0,
        wanted=check_cells(study, settings, directory, 1000),
    )


@pytest.fixture
def children() -> Iterator[Children]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield Children(threads=1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_run_is_trained_with_its_flags_after_the_shared_ones_and_then_scored(tmp_path: Path) -> None:
    work, children = work_on("head", tmp_path), StandIn()
    run = next(run for run in runs_of(work.study, (0, 1)) if run.name == "linear-32/seed-1")
    work.make(run, children)
    directory = tmp_path / "out" / run.name
    train, score = children.calls
    assert train[1:] == [
        "--config",
        str(tmp_path / "base.yaml"),
        "--data.dir=data",
        "--metrics.port=0",
        "--schedule.epochs=4",
        "--schedule.warmup_epochs=0.4",
        "--head.kind=linear",
        "--head.dim=32",
        "--seed=1",
        f"--run_dir={directory}",
    ]
    assert score == ["-m", "eval.evaluate", str(directory), "--protocols=knn,linear", "--controls=none"]
    assert json.loads((directory / "seconds.json").read_text()) == {"train": 13.2, "score": 5.0}


def test_only_the_first_run_has_controls(tmp_path: Path) -> None:
    work = work_on("lr_scaling", tmp_path)
    controls = [work.scoring(run, supervised=False)[-1] for run in runs_of(work.study, (0, 1))]
    assert controls == ["--controls=all"] + ["--controls=none"] * 3


def test_training_and_scoring_have_the_threads_of_their_job(tmp_path: Path) -> None:
    work, children = work_on("lr_scaling", tmp_path), StandIn()
    work = replace(work, settings=replace(work.settings, cpu_threads=3))
    work.make(runs_of(work.study, (0,))[0], children)
    assert all("--cpu_threads=3" in call for call in children.calls)
    assert len(children.calls) == 2


def test_an_evaluation_has_the_threads_that_it_is_given() -> None:
    before = torch.get_num_threads()
    for asked, had in ((1, 1), (3, 3), (0, len(os.sched_getaffinity(0)))):
        join_ranks("cpu", asked)
        assert torch.get_num_threads() == had
    torch.set_num_threads(before)


def test_the_study_of_colour_trains_a_supervised_network_on_the_runs_own_views(tmp_path: Path) -> None:
    work, children = work_on("colour", tmp_path), StandIn()
    run = runs_of(work.study, (0,))[1]
    work.make(run, children)
    assert children.calls[1][3:] == [
        "--protocols=knn,linear,supervised",
        "--controls=none",
        "--supervised.epochs=4",
        "--supervised.fractions=1.0",
        "--supervised.augmentation=run",
    ]
    assert work.is_done(run)


def test_eval_evaluate_takes_the_flags_of_a_study_and_gives_the_score_that_it_looks_for(
    tmp_path: Path, shards: Path
) -> None:
    work = work_on("colour", tmp_path, epochs=1)
    run = runs_of(work.study, (0,))[0]
    directory = tiny_run(work.directory / run.name, shards)
    flags = work.scoring(run, supervised=True)[3:]
    asked = parse(EvaluateConfig, [f"--run_dir={directory}", *flags, "--supervised.precision=fp32"])
    assert (asked.protocol_names, asked.controls) == (("knn", "linear", "supervised"), "all")
    score_supervised(*begun(directory, supervised=asked.supervised))
    assert run_scores(directory, work.study, ()).keys() == {"supervised"}


def test_a_run_is_done_when_it_has_every_score_that_is_asked_for(tmp_path: Path) -> None:
    work, children = work_on("temperature", tmp_path), StandIn()
    run = runs_of(work.study, (0,))[0]
    assert not work.is_done(run)
    children.train(["", *work.settings.training_flags(run, work.directory)], make(work.directory / run.name))
    assert not work.is_done(run)
    work.make(run, children)
    assert work.is_done(run)
    assert not replace(work, protocols=("knn", "linear", "linear_sgd")).is_done(run)


def make(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def test_a_run_that_was_begun_with_other_settings_is_refused(tmp_path: Path) -> None:
    work = work_on("lr_scaling", tmp_path)
    run = runs_of(work.study, (0,))[0]
    work.make(run, StandIn())
    other = work_on("lr_scaling", tmp_path, epochs=5)
    with pytest.raises(EvaluationError, match=r"config.yaml: begun with schedule.epochs = 4, not 5; .* --output"):
        other.is_done(run)
    threads = replace(work, settings=replace(work.settings, cpu_threads=2))
    assert threads.is_done(run)  # what does not shape the result may differ


def test_scores_are_those_of_the_encoder_without_a_variant() -> None:
    def score(protocol: str, variant: str, representation: str, value: float) -> dict[str, object]:
        return {"protocol": protocol, "variant": variant, "representation": representation, "value": value}

    results = {
        "scores": [
            score("knn", "k=200 T=0.1", "encoder", 0.1),
            score("knn", "", "random_init", 0.2),
            score("knn", "", "encoder", 0.3),
            score("supervised", "100 %", "encoder", 0.4),
            score("supervised", "100 % pretraining's views", "encoder", 0.5),
        ]
    }
    assert score_of(results, "knn") == 0.3
    assert score_of(results, "knn", "random_init") == 0.2
    assert score_of(results, "supervised") == 0.5
    assert score_of(results, "linear") is None


def test_the_contrastive_task_is_scored_over_the_last_epoch(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    lines = [(0.5, 0.1), (1.0, 0.2), (1.5, 0.4), (2.0, 0.6)]
    log.write_text("".join(json.dumps({"epoch": e, "health": {"contrastive_top1": top1}}) + "\n" for e, top1 in lines))
    assert contrastive_accuracy(log) == pytest.approx(0.5)
    assert contrastive_accuracy(tmp_path / "none") is None
    log.write_text("{")
    with pytest.raises(EvaluationError, match=r"metrics.jsonl: a line cannot be read"):
        contrastive_accuracy(log)


def test_results_of_another_program_are_refused(tmp_path: Path) -> None:
    work = work_on("lr_scaling", tmp_path)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "results.json").write_text('{"knn": {"top1": 0.5}}')
    with pytest.raises(EvaluationError, match=r"results.json: not written by eval.evaluate"):
        run_scores(tmp_path, work.study, ("knn",))


def test_parameters_are_counted_without_statistics(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    (tmp_path / "encoder").mkdir()
    weights = {"conv.weight": np.zeros((4, 3, 3, 3)), "bn.weight": np.zeros(4), "bn.running_mean": np.zeros(4)}
    save_file(weights, tmp_path / "encoder" / "model.safetensors")
    assert encoder_parameters(tmp_path) == 4 * 27 + 4
    assert encoder_parameters(tmp_path / "none") is None


def test_output_of_a_process_is_kept_and_its_fault_told(tmp_path: Path, children: Children) -> None:
    children.call(["-c", "import os; print('threads', os.environ['OMP_NUM_THREADS'])"], tmp_path)
    with pytest.raises(FailedError, match=r"ended with status 3 \(no room\); .*output.txt has the whole") as failed:
        children.call(["-c", "import sys; print('no room', file=sys.stderr); sys.exit(3)"], tmp_path)
    assert failed.value.status == 3
    assert (tmp_path / "output.txt").read_text() == "threads 1\nno room\n"
    with pytest.raises(FailedError) as killed:
        children.call(["-c", "import os; os.kill(os.getpid(), 9)"], tmp_path)
    assert killed.value.status == 137


def test_a_signal_reaches_who_is_running_and_nothing_more_is_started(tmp_path: Path, children: Children) -> None:
    waits = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print('up', flush=True); time.sleep(60)"
    )
    outcome: list[Exception] = []

    def run() -> None:
        try:
            children.call(["-c", waits], tmp_path)
        except EvaluationError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not (tmp_path / "output.txt").exists() or "up" not in (tmp_path / "output.txt").read_text():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGUSR1)
    thread.join(10)
    assert [type(error) for error in outcome] == [StoppedError]
    with pytest.raises(StoppedError):
        children.call(["-c", "raise SystemExit(1)"], tmp_path)
