import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ops.doctor.alone import bucket_sizes
from ops.doctor.diagnosis import Diagnosis, Length, diagnose, judge, reckon
from ops.doctor.measurements import LOADER_STAGES, Alone, Phase, slowest, slowest_phase, stragglers
from ops.doctor.phases import bounded_by_fetching
from ops.doctor.together import typical

TINY = [
    "--encoder.name=resnet18",
    "--encoder.stem=cifar",
    "--encoder.width=0.0625",
    "--views.size=32",
    "--schedule.epochs=5",
    "--schedule.warmup_epochs=0",
    "--global_batch=8",
    "--cpu_threads=1",
    "--seconds=0.5",
]


def doctor(*flags: str, launcher: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *launcher, "-m", "ops.doctor", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def phase(
    step: float = 1.0, wait: float = 0.0, name: str = "first epoch", by_itself: float = 0.0, **loader: float
) -> Phase:
    return Phase(
        name=name, step_seconds=step, wait_share=wait, loader_seconds=loader, loader_alone_seconds=by_itself, steps=10
    )


def alone(**seconds: float | None) -> Alone:
    return Alone(seconds={"augment": 0.1, "step": 0.2, "all_reduce": None, "all_reduce_exposed": None, **seconds})


@pytest.mark.parametrize("stage", ["storage", "decode", "augment", "transfer"])
def test_where_training_waits_the_longest_stage_of_the_loader_is_the_bottleneck(stage: str) -> None:
    loader = {"storage": 0.2, "decode": 0.2, "augment": 0.1, "transfer": 0.1, stage: 0.6}
    waiting = replace(phase(wait=0.3), loader_seconds=loader)
    verdict = judge(waiting, alone(), global_batch=100, steps=3600)
    assert (verdict.bottleneck, verdict.starved) == (stage, True)
    assert verdict.images_per_second == 100
    assert verdict.hours == pytest.approx(1)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"step": 0.8}, "step"),
        ({"augment": 0.8}, "augment"),
        ({"all_reduce": 5.0, "all_reduce_exposed": 0.1}, "step"),
        ({"all_reduce": 0.9, "all_reduce_exposed": 0.5}, "all_reduce"),
    ],
)
def test_where_it_does_not_it_is_the_longest_of_what_training_does_itself(
    seconds: dict[str, float], expected: str
) -> None:
    verdict = judge(phase(wait=0.049, decode=0.99, storage=0.01), alone(**seconds), global_batch=100, steps=1)
    assert (verdict.bottleneck, verdict.starved) == (expected, False)


def test_on_shared_cores_a_loader_with_more_to_do_than_training_is_to_blame_though_nobody_waits() -> None:
    slowed = phase(0.5, wait=0.01, decode=0.45, storage=0.01, by_itself=0.31)
    verdict = judge(slowed, alone(), global_batch=100, steps=1)
    assert (verdict.bottleneck, verdict.starved) == ("decode", False)
    assert judge(replace(slowed, loader_alone_seconds=0.29), alone(), global_batch=100, steps=1).bottleneck == "step"


def test_what_is_next_is_the_slower_side_without_the_bottleneck() -> None:
    verdict = judge(phase(wait=0.5, storage=0.6, decode=0.35, augment=0.05), alone(), global_batch=60, steps=1)
    assert verdict.next_bottleneck == "decode"
    assert verdict.ceiling == pytest.approx(60 / 0.4)
    verdict = judge(phase(wait=0.5, storage=0.9, decode=0.1), alone(), global_batch=60, steps=1)
    assert verdict.next_bottleneck == "step"
    assert verdict.ceiling == pytest.approx(60 / 0.3)


def lasting(steps: int, first: float, later: float) -> Diagnosis:
    length = Length(global_batch=10, steps_per_epoch=100, steps=steps)
    slow = phase(first, wait=0.9, storage=first, decode=0.1)
    return diagnose(slow, phase(later, name="later epochs", decode=0.1, storage=0.0), alone(), length)


def test_the_bottleneck_is_that_of_the_phase_in_which_the_run_spends_its_time() -> None:
    short = lasting(steps=200, first=3, later=1)
    assert (short.main.phase.name, short.main.bottleneck) == ("first epoch", "storage")
    assert short.hours == pytest.approx((100 * 3 + 100 * 1) / 3600)
    long = lasting(steps=1000, first=3, later=1)
    assert (long.main.phase.name, long.main.bottleneck) == ("later epochs", "step")
    assert long.main.images_per_second == 10
    assert long.hours == pytest.approx((100 * 3 + 900 * 1) / 3600)


def test_a_run_that_stops_within_the_first_epoch_has_no_later_ones() -> None:
    stopped = lasting(steps=60, first=3, later=1)
    assert [verdict.phase.name for verdict in stopped.phases] == ["first epoch"]
    assert stopped.hours == pytest.approx(60 * 3 / 3600)


def test_a_phase_that_is_reckoned_goes_at_the_pace_of_the_slower_side() -> None:
    starved = reckon("first epoch", {"storage": 1.0, "decode": 0.2}, alone())
    assert [starved.step_seconds, starved.wait_share] == pytest.approx([1.2, 0.75])
    busy = reckon("first epoch", {"storage": 0.1, "decode": 0.1}, alone())
    assert [busy.step_seconds, busy.wait_share] == pytest.approx([0.3, 0])


def test_shards_that_come_slowly_set_the_pace_and_others_change_nothing() -> None:
    measured = phase(1.0, wait=0.2, storage=0.1, decode=0.9)
    assert bounded_by_fetching(measured, 0.99) == measured
    bounded = bounded_by_fetching(measured, 4.0)
    assert [bounded.step_seconds, bounded.wait_share] == pytest.approx([4.0, 0.8])
    assert judge(bounded, alone(), global_batch=1, steps=1).bottleneck == "storage"


def test_ranks_are_as_fast_as_the_slowest_of_them_at_each_stage() -> None:
    ranks = [alone(step=0.2, decode=0.5), alone(step=0.7, decode=0.1), alone(step=0.2, decode=0.1)]
    assert slowest(ranks).seconds["step"] == 0.7
    assert slowest(ranks).seconds["decode"] == 0.5
    assert slowest(ranks).seconds["all_reduce"] is None
    assert [(one.rank, one.stage) for one in stragglers(ranks)] == [(1, "step"), (0, "decode")]
    assert [one.times for one in stragglers(ranks)] == pytest.approx([3.5, 5.0])
    calm, waiting = phase(1.0, wait=0.0, decode=0.1), phase(1.1, wait=0.5, decode=1.0)
    together = slowest_phase([calm, waiting])
    assert (together.step_seconds, together.wait_share, together.loader_seconds) == (1.1, 0.5, {"decode": 1.0})


def test_a_short_burst_of_a_neighbour_does_not_move_the_typical_step() -> None:
    assert typical([1.0] * 50, steps_a_line=10) == 1
    assert typical([1.0] * 40 + [9.0] * 10, steps_a_line=10) == 1
    assert typical([1.0, 3.0], steps_a_line=10) == 2


@pytest.mark.parametrize("total", [4, 2**20, 2**20 + 4, 60 * 2**20, 250 * 2**20 + 8])
def test_buckets_hold_all_gradients(total: int) -> None:
    sizes = bucket_sizes(total, 25 * 2**20)
    assert sum(sizes) == total
    assert sizes[0] <= 2**20
    assert all(0 < size <= 25 * 2**20 for size in sizes)


def test_the_whole_doctor_tells_a_script_everything(shards: Path) -> None:
    done = doctor(*TINY, f"--data.dir={shards}", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["bottleneck"] in ("storage", "decode", "augment", "step")
    assert set(told["phases"]) == {"first epoch", "later epochs"}  # the cache keeps 64 canvases
    main = told["phases"][told["phase"]]
    assert told["images_per_second"] == main["images_per_second"] == pytest.approx(8 / main["step_seconds"])
    assert main["steps_timed"] > 2
    assert 0 <= main["wait_share"] <= 1
    assert set(main["loader_seconds"]) == set(LOADER_STAGES.values())
    for stage in ("storage_cold", "storage_warm", "decode", "draw", "augment", "transfer", "step"):
        assert told["stages"][stage]["images_per_second"] == pytest.approx(8 / told["stages"][stage]["seconds"])
    assert told["stages"]["all_reduce"] is None
    first, later = told["phases"]["first epoch"], told["phases"]["later epochs"]
    assert later["loader_seconds"]["decode"] == 0
    assert first["loader_seconds"]["decode"] > 0
    assert told["hours"] == pytest.approx((8 * first["step_seconds"] + 32 * later["step_seconds"]) / 3600)
    assert told["run"]["steps"] == 40
    assert told["advice"]
    assert told["versions"]["torch"]
    assert told["hardware"]["cores"] > 0


def test_two_ranks_measure_the_all_reduce_and_one_of_them_speaks(shards: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    flags = ("--device=cpu", "--data.cache=none", "--fail_if_starved=false")
    done = doctor(*TINY, f"--data.dir={shards}", *flags, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("prediction: ") == 1
    assert "2 ranks on cpu" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("all_reduce"))
    assert float(line.split()[1]) > 0
    assert "MiB of gradients" in line
    assert "not hidden" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seconds=-1"], "doctor: error: seconds: -1 must be >0"),
        (["--secnds=1"], "doctor: error: secnds: no such field (in secnds=1); did you mean seconds?"),
        (["--data.dir=/nowhere"], "doctor: error: /nowhere/manifest.json: no such file; /nowhere is not a data set"),
    ],
)
def test_bad_input_is_refused_in_one_line(flags: list[str], message: str) -> None:
    done = doctor(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message), done.stderr
    assert done.stderr.count("\n") == 1
