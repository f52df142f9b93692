import json
from itertools import islice
from typing import Any

import pytest
import torch

from ops.bench import lars, lars_contestants
from ops.bench.lars import LIGHTLY, OURS, LarsBenchConfig, compared, shapes_of
from ops.bench.measure import Answer, BenchConfig, Contestant
from train.errors import RunError

SHAPES = [[4, 3, 3, 3], [4], [4], [2, 4], [2]]
VALUES = 4 * 27 + 4 + 4 + 8 + 2
RATES = {OURS: 30, "ours, as on CUDA": 15, "timm Lars": 20, "torch SGD, foreach": 60}


def fake_run(contestant: Contestant, _: BenchConfig) -> Answer:
    """Two undisturbed seconds, or what is not there."""
    if contestant.name not in RATES:
        return {"missing": "No module named 'lightly'"}
    return {"images": 2 * RATES[contestant.name], "wall_seconds": 2.0, "cpu_seconds": 2.0, "versions": {}}


def fake_count(_: str, options: dict[str, Any], python: str) -> Answer:
    """Lightly, and it alone, is looked for in the peers' Python, and is not there."""
    assert json.loads(json.dumps(options)) == options
    assert (python == "peers/python") == (options["kind"] == "lightly")
    if options["kind"] == "lightly":
        return {"missing": "No module named 'lightly'"}
    return {"made": {"dispatches": 1_234, "bytes_moved": 5_000_000, "host_syncs": 7}}


def config(**settings: Any) -> LarsBenchConfig:
    return LarsBenchConfig(encoder="resnet18", peer_python="peers/python", repeats=1, **settings)


def test_the_report_has_ratios_counts_and_who_is_missing() -> None:
    report = compared(config(), fake_run, fake_count)
    (title,) = report["sections"]
    section = report["sections"][title]
    assert title == "resnet18, 60 parameters"
    assert section["timm Lars"]["ratio"] == 1.5
    assert section["timm Lars"]["wanted_ratio"] == 1.0
    assert section["torch SGD, foreach"]["ratio"] == 0.5
    assert section[LIGHTLY]["failure"] == "not installed (No module named 'lightly')"
    assert set(report["counts"]) == set(section)
    assert report["counts"][OURS] == {"dispatches": 1_234, "bytes_moved": 5_000_000, "host_syncs": 7}
    assert report["counts"][LIGHTLY] == {"failure": "No module named 'lightly'"}
    json.dumps(report)


def test_the_report_in_words_names_its_unit_and_its_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ops.bench.measure.run_alone", fake_run)
    monkeypatch.setattr(lars, "call_alone", fake_count)
    lars.main(["--encoder=resnet18", "--repeats=1", "--peer_python=peers/python"])
    lines = capsys.readouterr().out.splitlines()
    assert sum("updates/CPU-s" in line for line in lines) == 1
    assert any(line.startswith(OURS) and line.split()[-3:] == ["1,234", "5", "7"] for line in lines)


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(RunError, match="encoder = resnet51: not a model of timm"):
        shapes_of("resnet51")


@pytest.mark.parametrize("kind", ["each", "flat", "timm", "sgd"])
def test_every_contestant_updates_the_parameters(kind: str) -> None:
    optimizer = lars_contestants.made(kind, SHAPES)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.step()
    assert len(parameters) == len(SHAPES)
    assert not any(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


@pytest.mark.parametrize("kind", ["each", "flat", "timm", "sgd"])
def test_counting_finds_what_an_update_is_made_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # else of all tests
    told = lars_contestants.counted(kind, SHAPES)
    assert told["bytes_moved"] >= 4 * 5 * VALUES  # reads weight, gradient and momentum, writes two of them
    assert told["dispatches"] > 0
    assert told["host_syncs"] == 0
    assert list(islice(lars_contestants.updates(kind, SHAPES), 3)) == [1, 1, 1]


def test_lightly_updates_the_parameters() -> None:
    pytest.importorskip("lightly")
    assert lars_contestants.counted("lightly", SHAPES)["dispatches"] > 0


def test_host_syncs_are_values_handed_to_python() -> None:
    with lars_contestants._Waiting() as watched:
        x = torch.ones(3)
        _ = x + 1
        assert watched.count == 0
        _ = float(x.sum()), bool(x[0] > 0)
    assert watched.count == 2
