import json
import sys
from typing import Any

import pytest

from ops.bench import loss, loss_contestants
from ops.bench.loss import LIGHTLY, NAIVE, OURS, LossBenchConfig, compared, counted
from ops.bench.measure import Answer, BenchConfig, Contestant
from train.errors import RunError

RATES = {OURS: 200, "ours, by tiles": 210, "ours, by rows": 150, NAIVE: 50}
COUNTS = {"dispatches": 1_234, "peak_bytes": 3_000_000, "value": 0.25, "gradient_norm": 0.5, "gradient_along": 0.01}


def fake_run(contestant: Contestant, _: BenchConfig) -> Answer:
    if contestant.name not in RATES:
        return {"missing": "No module named 'lightly'"}
    return {"images": 2 * RATES[contestant.name], "wall_seconds": 2.0, "cpu_seconds": 2.0, "versions": {}}


def fake_count(_: str, options: dict[str, Any], __: str) -> Answer:
    if options["kind"] == "lightly":
        return {"missing": "No module named 'lightly'"}
    return {"made": COUNTS | ({"peak_bytes": 90_000_000} if options["kind"] == "naive" else {})}


def test_ratios_to_others_in_speed_and_memory_stand_beside_what_was_wanted() -> None:
    report = compared(LossBenchConfig(rows=64), fake_run, fake_count)
    section = report["sections"]["2N = 64, D = 128"]
    assert (section[NAIVE]["ratio"], section[NAIVE]["wanted_ratio"]) == (4.0, pytest.approx(1 / 0.6))
    assert section[LIGHTLY]["failure"] == "not installed (No module named 'lightly')"
    assert (report["counts"][NAIVE]["memory_ratio"], report["counts"][NAIVE]["memory_wanted"]) == (30.0, 30.0)
    assert report["counts"][LIGHTLY] == {"failure": "No module named 'lightly'"}


@pytest.mark.parametrize(("number", "wrong"), [("value", 0.26), ("gradient_norm", 0.6), ("gradient_along", -0.01)])
def test_a_contestant_that_computes_another_loss_is_refused(number: str, wrong: float) -> None:
    def other(call: str, options: dict[str, Any], python: str) -> Answer:
        answer = fake_count(call, options, python)
        return {"made": answer["made"] | {number: wrong}} if options["kind"] == "naive" else answer

    with pytest.raises(RunError, match=f"whole matrix: {number} is {wrong}, ours .*; they compute different"):
        counted(LossBenchConfig(rows=64), other)


def test_only_lightly_runs_in_the_python_of_the_peers() -> None:
    called = []

    def note(_: str, options: dict[str, Any], python: str) -> Answer:
        called.append((options["kind"], python))
        return {"missing": "x"}

    counted(LossBenchConfig(rows=64, peer_python="peers/python"), note)
    assert [kind for kind, python in called if python == "peers/python"] == ["lightly"]
    assert {python for kind, python in called if kind != "lightly"} == {sys.executable}


@pytest.mark.parametrize("kind", ["ours", "tiles", "rows", "naive"])
def test_every_contestant_works_on_all_rows_and_computes_the_same(kind: str) -> None:
    options = {"rows": 256, "dim": 16, "temperature": 0.2}
    assert next(loss_contestants.losses(kind, **options)) == 256  # type: ignore[arg-type]
    ours, theirs = (loss_contestants.counted(one, **options) for one in ("ours", kind))  # type: ignore[arg-type]
    assert theirs["value"] == pytest.approx(ours["value"], rel=1e-5)
    assert theirs["gradient_norm"] == pytest.approx(ours["gradient_norm"], rel=1e-5)


def test_ours_needs_a_fraction_of_the_memory_of_the_whole_matrix() -> None:
    ours, naive = (loss_contestants.counted(kind, 4096, 16, 0.2)["peak_bytes"] for kind in ("ours", "naive"))
    assert ours < naive / 8


def test_the_report_is_a_table_or_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(loss, "call_alone", fake_count)
    monkeypatch.setattr("ops.bench.measure.run_alone", fake_run)
    loss.main(["--rows=64", "--repeats=1"])
    assert NAIVE in capsys.readouterr().out
    loss.main(["--rows=64", "--repeats=1", "--json=true"])
    assert set(json.loads(capsys.readouterr().out)) >= {"sections", "counts", "machine", "ratios"}


def test_an_odd_number_of_rows_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        loss.main(["--rows=7"])
    assert stopped.value.code == 2
    assert "rows = 7: must be even" in capsys.readouterr().err
