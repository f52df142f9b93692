import json
from pathlib import Path
from typing import Any

import pytest

from ops.bench.all import AllBenchConfig, commands, main, measured
from ops.bench.page import written

MACHINE = {"cpu": "a processor", "cores": 2, "date": "2026-01-01T00:00:00+00:00"}
OURS = {"median": 300.0, "lowest": 290.0, "highest": 310.0, "versions": {"torch": "2"}}
THEIRS = {"median": 100.0, "lowest": 9.96, "highest": 110.0, "versions": {"peer": "1.0"}, "ratio": 3.0, "noisy": True}
LIMITS = {
    "flops_per_image": 4e8,
    "peak_flops": 4e11,
    "view_bytes_per_image": 1e6,
    "copy_bytes_per_second": 3e10,
    "loader_images_per_second": 3000.0,
}
REPORTS: dict[str, dict[str, Any]] = {
    "loader": {
        "machine": MACHINE,
        "sections": {"32 px": {"ours": OURS, "theirs": THEIRS}, "256 px": "left out: no imagenet named"},
    },
    "step": {"machine": MACHINE, "whole step": OURS, "bound": OURS, "ratio": 0.96, "roofline": LIMITS | {"mfu": 0.3}},
    "end_to_end": {
        "machine": MACHINE,
        "rates": {
            "ours": OURS | {"memory_bytes": 2e9},
            "theirs, fp32": THEIRS | {"memory_bytes": 3e9},
            "gone": {"failure": "not installed (gone)"},
        },
    },
    "learn": {
        "machine": MACHINE,
        "learnt": {
            "ours": {
                "epochs": [
                    {"seconds": 90.0, "memory_bytes": 2e9, "knn": 0.40},
                    {"seconds": 180.0, "memory_bytes": 1e9, "knn": 0.46},
                ],
                "knn": 0.46,
                "linear": 0.48,
                "seconds_to": {"0.45": 180.0, "0.5": None},
                "versions": {"torch": "2"},
            },
            "gone": {"failure": "not installed (gone)"},
        },
    },
}


def test_the_page_has_every_number_with_its_command_machine_and_versions() -> None:
    page = written(
        {name: report | {"command": [name, "--data.dir", "data/x"]} for name, report in REPORTS.items()}, "page"
    )
    assert "`python -m ops.bench loader --data.dir data/x`" in page
    assert page.count("a processor, 2 cores, no GPU, 2026-01-01T00:00:00+00:00") == 4
    assert page.count("| peer 1.0 | 100 | 10.0 to 110 (noisy) | 3.00 |") == 2
    assert "| peer 1.0 | 100 | 10.0 to 110 (noisy) | 3.00 | 3.00 GB |" in page
    assert "| gone | not installed (gone) | | | | |" in page
    assert "| bound: views in memory | torch 2 | 300 | 290 to 310 | 0.96 |" in page
    assert "left out: no imagenet named" in page
    assert "a large product reaches 400 GFLOP/s: MFU 0.30" in page
    assert "loader     3,000 images/s alone: 10.0 times a whole step's" in page
    assert "| s/epoch | memory | s to 45 % | s to 50 % |" in page
    assert "| ours | torch 2 | 40.0, 46.0 | 48.0 | 90 | 2.00 GB | 180 | not reached |" in page
    assert "| gone | not installed (gone) | | | | | | |" in page


def test_the_page_says_whether_a_gpu_was_there() -> None:
    none = REPORTS["step"] | {"command": ["step"]}
    one = none | {"machine": MACHINE | {"gpus": ["a GPU"]}}
    assert "Nothing here was measured on a GPU." in written({"step": none}, "page")
    assert "Nothing here was measured on a GPU." not in written({"step": one}, "page")


def test_reports_that_are_kept_are_not_measured_again_and_make_page_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = commands(AllBenchConfig(work=str(tmp_path), data_dir="nowhere"))
    reports = {name: report | {"command": asked[name]} for name, report in REPORTS.items()}
    (tmp_path / "reports").mkdir()
    for name, report in reports.items():
        (tmp_path / "reports" / f"{name}.json").write_text(json.dumps(report))
    page = tmp_path / "docs" / "benchmarks.md"
    kept = f"--only={','.join(REPORTS)}"
    main([f"--work={tmp_path}", "--data_dir=nowhere", kept, f"--page={page}", "--json=true"])
    told = json.loads(capsys.readouterr().out)
    assert {name: told[name] for name in reports} == reports
    assert "![How many times as fast ours is, by contestant](benchmarks.png)" in page.read_text()
    assert "[benchmarks.json](benchmarks.json)" in page.read_text()
    assert "](benchmarks-learn.png)" in page.read_text()
    for figure in ("benchmarks.png", "benchmarks-learn.png"):
        assert (page.parent / figure).read_bytes().startswith(b"\x89PNG")
    assert json.loads(page.with_suffix(".json").read_text()) == reports


def test_every_benchmark_gets_its_data_and_peers() -> None:
    asked = commands(AllBenchConfig(data_dir="D", imagenet="I", peer_python="P", work="W"))
    assert asked["loader"] == ["loader", "--cifar", "D", "--imagenet", "I", "--work", "W", "--peer_python", "P"]
    assert asked["end_to_end"][3:5] == ["--data.dir", "D"]
    assert asked["end_to_end_224"][3:5] == ["--data.dir", "W/imagenet-256"]
    assert " ".join(asked["learn"]).count("--schedule.epochs 6 --schedule.warmup_epochs 0.6 --learn true") == 1


def test_what_lacks_its_data_or_is_not_wanted_is_left_out() -> None:
    everything = commands(AllBenchConfig(data_dir="D", imagenet="I"))
    less = commands(AllBenchConfig(data_dir="D", learn_epochs=0))
    assert set(everything) - set(less) == {"end_to_end_224", "learn"}


def test_a_report_that_other_flags_made_is_measured_anew(tmp_path: Path) -> None:
    kept = tmp_path / "reports" / "step.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps(REPORTS["step"] | {"command": ["step", "--data.dir", "elsewhere"]}))
    assert measured("step", ["step", f"--data.dir={tmp_path}"], str(tmp_path)) is None
    assert measured("step", ["step", "--data.dir", "elsewhere"], str(tmp_path)) is not None


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
