import json
from typing import Any

import pytest
from rank_pool import RankPool
from traffic_on_ranks import reported_traffic

from model.config import EncoderConfig, HeadConfig
from ops.bench.scaling import lines, main, traffic_of
from ops.bench.scaling_points import points
from ops.bench.scaling_ranks import RankProcesses
from pipelines.config import DataConfig, ViewsConfig
from train.config import PretrainConfig
from train.errors import RunError

TINY = [
    "--encoder.name=resnet18",
    "--encoder.stem=cifar",
    "--encoder.width=0.125",
    "--head.dim=8",
    "--views.size=16",
    "--data.canvas=16",
    "--global_batch=8",
    "--precision=fp32",
    "--device=cpu",
    "--cpu_threads=1",
    "--repeats=2",
    "--steps=1",
]
CONFIG = PretrainConfig(
    data=DataConfig(canvas=16),
    views=ViewsConfig(size=16),
    encoder=EncoderConfig(name="resnet18", stem="cifar", width=0.125),
    head=HeadConfig(dim=8),
    global_batch=8,
    precision="fp32",
    device="cpu",
    cpu_threads=1,
)

REPORT: dict[str, Any] = {
    "machine": {"cpu": "a CPU", "cores": 2, "date": "today"},
    "device": "cpu",
    "precision": "fp32",
    "repeats": 1,
    "steps": 1,
    "run": "a run",
    "points": [],
}


def labels(*arguments: Any) -> list[tuple[str, str]]:
    return [(point.sweep, point.label) for point in points(CONFIG, *arguments)]


def test_each_sweep_changes_one_thing_by_half_and_by_two() -> None:
    made = points(CONFIG, "", "", "", "", 3)
    assert [(point.sweep, point.label, point.ranks) for point in made[1:]] == [
        ("global batch", "4", 1),
        ("global batch", "16", 1),
        ("image size", "8 px", 1),
        ("image size", "32 px", 1),
        ("encoder", "resnet18:0.0625", 1),
        ("encoder", "resnet18:0.25", 1),
        ("ranks share the batch", "2", 2),
        ("ranks with it each", "2", 2),
    ]
    assert (made[4].config.views.size, made[4].config.data.canvas) == (32, 32)
    assert (made[7].config.global_batch, made[8].config.global_batch) == (8, 16)
    assert made[0].config == CONFIG


def test_what_is_asked_for_is_swept() -> None:
    assert labels("12, 20", "24", "resnet34:0.5,resnet50,2", "1", 1)[1:] == [
        ("global batch", "12"),
        ("global batch", "20"),
        ("image size", "24 px"),
        ("encoder", "resnet34:0.5"),
        ("encoder", "resnet50:0.125"),
        ("encoder", "resnet18:2"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("8,x", "", "", "1", 1), "batches = 8,x: must be positive numbers, separated by commas"),
        (("", "-8", "", "1", 1), "sizes = -8: must be positive"),
        (("", "", "resnet18:wide", "1", 1), "encoders = wide: must be positive"),
        (("", "", "", "4", 2), "ranks = 4: this machine has devices or cores for 2"),
        (("", "", "", "3", 4), "ranks = 3: does not divide global_batch = 8"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_one_line(arguments: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        points(CONFIG, *arguments)


def test_a_sweep_on_one_rank_measures_every_point(capsys: pytest.CaptureFixture[str]) -> None:
    main([*TINY, "--batches=16", "--sizes=32", "--encoders=0.25", "--ranks=1", "--json=true"])
    report = json.loads(capsys.readouterr().out)
    rows = report["points"]
    assert [row["sweep"] for row in rows] == ["this run", "global batch", "image size", "encoder"]
    for row in rows:
        assert 0 < row["lowest"] <= row["median"] <= row["highest"]
        assert row["images_per_second"] == pytest.approx(row["global_batch"] / row["median"])
        assert row["to_base"] == pytest.approx(row["images_per_second"] / rows[0]["images_per_second"])
    assert report["traffic"] == {}
    told = lines(report)
    assert sum(line.startswith(("this run", "global batch", "image size", "encoder")) for line in told) == 4


def test_a_fault_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, message in (
        ("--micro_batch=4", "micro_batch"),
        ("--encoders=vit_tiny_patch16_224:2", "encoder.width"),
        ("--ranks=1000", "ranks = 1000"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*TINY, flag])
        error = capsys.readouterr().err
        assert error.startswith("bench scaling: error: ")
        assert message in error
        assert error.count("\n") == 1


def test_what_two_ranks_send_is_reported_beside_the_formulas(two_ranks: RankPool) -> None:
    seconds, traffic = two_ranks.run(reported_traffic, CONFIG)[0]
    assert seconds > 0
    kinds = {(kind["carried"], kind["operation"]): kind for kind in traffic["kinds"]}
    assert all(kind["bytes"] == kind["bytes_by_formula"] > 0 for kind in kinds.values())
    gradient = kinds["gradient of the weights", "all-reduce"]
    assert gradient["sent_bytes"] == gradient["bytes"]  # a ring of two: half of it, twice
    assert list(traffic["more_ranks"]) == [8, 64, 512]
    assert gradient["bytes"] < traffic["more_ranks"][8] < traffic["more_ranks"][64]
    told = "\n".join(lines({**REPORT, "traffic": {2: traffic}}))
    assert f"{gradient['bytes']:,}" in told
    assert "512 ranks" in told


@pytest.mark.slow
def test_ranks_in_processes_of_their_own_measure_and_count() -> None:
    with RankProcesses([CONFIG], 2) as processes:
        assert processes.seconds(0, 1) > 0
        traffic = traffic_of(CONFIG, 2, *processes.traffic(0))
        with pytest.raises(RunError, match="rank 0 of 2: IndexError"):
            processes.seconds(5, 1)
    assert all(kind["bytes"] == kind["bytes_by_formula"] > 0 for kind in traffic["kinds"])
