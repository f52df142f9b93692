"""The Job of a study makes each of its runs in a pod of its own, and none that does not exist."""

import sys
from pathlib import Path

import pytest
from kustomize import environment, expanded, job_spec, pod_labels, pod_spec, render, the, trainer
from study_stand_in import StandIn

from eval import ablate
from train.arguments import parse
from train.config import PretrainConfig

LAST = 29


def words(index: int) -> list[str]:
    """Of the container's command line in a pod."""
    objects = render("study")
    variables = environment(trainer(objects), pod_labels(objects, index))
    return [expanded(word, variables) for word in trainer(objects)["args"]]


def test_each_index_is_a_run_and_all_runs_have_one(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = render("study")
    (text,) = the("ConfigMap", objects)["data"].values()
    (tmp_path / "pretrain.yaml").write_text(text)
    assert words(LAST)[:3] == ["python", "-m", "eval.ablate"]
    given = {"--config": f"{tmp_path}/pretrain.yaml", "--data.dir": str(shards), "--output": str(tmp_path / "out")}
    line = [f"{flag}={given[flag]}" if (flag := word.partition("=")[0]) in given else word for word in words(LAST)[3:]]
    children = StandIn()
    monkeypatch.setattr(ablate, "Children", lambda _: children)
    monkeypatch.setattr(sys, "argv", ["ablate", *line, "--global_batch=16"])  # the shards are few
    with pytest.raises(SystemExit) as without:
        ablate.main()
    assert without.value.code == 2  # not in a pod of an indexed Job
    assert "JOB_COMPLETION_INDEX" in capsys.readouterr().err
    monkeypatch.setenv("JOB_COMPLETION_INDEX", str(LAST))
    ablate.main()
    train, score = children.calls
    config = parse(PretrainConfig, train[1:])
    assert (config.seed, config.schedule.epochs, config.head.kind, config.head.dim) == (1, 100, "mlp", 2048)
    assert config.metrics.address == "0.0.0.0"  # noqa: S104
    assert config.metrics.targets_dir.startswith("/tmp/")  # noqa: S108
    assert f"{tmp_path}/out/mlp-2048/seed-1" in score
    assert job_spec(objects)["completions"] == LAST + 1
    monkeypatch.setenv("JOB_COMPLETION_INDEX", str(LAST + 1))
    with pytest.raises(SystemExit):
        ablate.main()
    assert f"the study has runs 0 to {LAST}" in capsys.readouterr().err


def test_output_goes_where_all_runs_go_under_the_studys_name() -> None:
    assert "--output=runs/head-study" in words(0)
    mounts = {mount["mountPath"] for mount in trainer(render("study"))["volumeMounts"]}
    assert {"/diptych/runs", "/diptych/data", "/etc/diptych", "/cache", "/tmp"} <= mounts  # noqa: S108


def test_a_run_that_fails_does_not_end_the_others() -> None:
    spec = job_spec(render("study"))
    refused, stopped, disrupted = spec["podFailurePolicy"]["rules"]
    assert (refused["action"], refused["onExitCodes"]["values"]) == ("FailIndex", [2])
    assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [75])
    assert disrupted == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert spec["maxFailedIndexes"] == spec["completions"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] < spec["completions"]


def test_no_probe_takes_scoring_for_death_and_all_else_is_that_of_a_run() -> None:
    study, run = pod_spec(render("study")), pod_spec(render("single_node"))
    (ours,), (theirs,) = study.pop("containers"), run.pop("containers")
    for probe in ("startupProbe", "livenessProbe"):
        assert probe not in ours
        del theirs[probe]
    assert ours.pop("args") != theirs.pop("args")
    assert ours == theirs
    for spec in (study, run):
        spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "config"]
    assert study == run
