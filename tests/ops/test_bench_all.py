import json
from pathlib import Path
from typing import Any

import pytest

from ops.bench.all import AllBenchConfig, commands, main
from ops.bench.page import written

MACHINE = {"cpu": "a processor", "cores": 2, "date": "2026-01-01T00:00:00+00:00"}
OURS = {"median": 300.0, "lowest": 290.0, "highest": 310.0, "versions": {"torch": "2"}}
THEIRS = {"median": 100.0, "lowest": 90.0, "highest": 110.0, "versions": {"peer": "1.0"}, "ratio": 3.0, "noisy": True}
REPORTS: dict[str, dict[str, Any]] = {
    "loader": {
        "machine": MACHINE,
        "sections": {"32 px": {"ours": OURS, "theirs": THEIRS}, "256 px": "left out: no imagenet named"},
    },
    "step": {"machine": MACHINE, "whole step": OURS, "bound": OURS, "ratio": 0.96},
    "end_to_end": {
        "machine": MACHINE,
        "rates": {"ours": OURS, "theirs, fp32": THEIRS, "gone": {"failure": "not installed (gone)"}},
    },
}


def test_the_page_has_every_number_with_its_command_machine_and_versions() -> None:
    page = written(REPORTS, {name: ["--data.dir", "data/x"] for name in REPORTS}, "figure.png")
    assert "`python -m ops.bench loader --data.dir data/x`" in page
    assert page.count("a processor, 2 cores, no GPU, 2026-01-01T00:00:00+00:00") == 3
    assert page.count("| peer 1.0 | 100 | 90 to 110 (noisy) | 3.00 |") == 2
    assert "| gone | not installed (gone) | | | |" in page
    assert "| bound: views in memory | torch 2 | 300 | 290 to 310 | 0.96 |" in page
    assert "left out: no imagenet named" in page


def test_reports_that_are_kept_are_not_measured_again_and_make_page_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reports").mkdir()
    for name, report in REPORTS.items():
        (tmp_path / "reports" / f"{name}.json").write_text(json.dumps(report))
    page = tmp_path / "docs" / "benchmarks.md"
    main([f"--work={tmp_path}", "--data_dir=nowhere", "--only=loader,step,end_to_end", f"--page={page}", "--json=true"])
    told = json.loads(capsys.readouterr().out)
    assert {name: told[name] for name in REPORTS} == REPORTS
    assert "![How many times as fast ours is, by contestant](benchmarks.png)" in page.read_text()
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_every_benchmark_gets_its_data_and_peers() -> None:
    asked = commands(AllBenchConfig(data_dir="D", imagenet="I", peer_python="P", work="W"))
    assert asked["loader"] == ["--cifar", "D", "--imagenet", "I", "--work", "W", "--peer_python", "P"]
    assert asked["end_to_end"][2:4] == ["--data.dir", "D"]


def test_a_benchmark_that_fails_is_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--work={tmp_path}", f"--data_dir={tmp_path}", "--only=step", "--json=true"])
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == ["machine"]
    assert "step failed with exit status 2" in err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [([], "data_dir: no data set named"), (["--data_dir=D", "--only=speed"], "only: 'speed' is none of")],
)
def test_wrong_choices_are_refused(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
