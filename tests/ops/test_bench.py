import json
import subprocess
import sys
from pathlib import Path

import pytest

from ops.bench.step import Block, summary


def test_the_whole_step_is_measured_beside_its_bound(shards: Path) -> None:
    small = ["--encoder.name=resnet18", "--encoder.stem=cifar", "--encoder.width=0.0625", "--views.size=32"]
    shape = ["--global_batch=8", "--schedule.epochs=1", "--schedule.warmup_epochs=0", "--repeats=2", "--steps=2"]
    done = subprocess.run(
        [sys.executable, "-m", "ops.bench", "step", *small, *shape, f"--data.dir={shards}", "--json=true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for kind in ("whole step", "bound"):
        rate = report[kind]
        assert 0 < rate["lowest"] <= rate["median"] <= rate["highest"]
        assert 0 < rate["cpu_utilisation"] < 2
    assert report["ratio"] == pytest.approx(report["whole step"]["median"] / report["bound"]["median"])
    limits = report["roofline"]
    done_flops = limits["flops_per_image"] * report["whole step"]["median"]
    assert limits["mfu"] == pytest.approx(done_flops / limits["peak_flops"])
    assert 0 < limits["mfu"] < 1
    assert limits["view_bytes_per_image"] > 2 * 3 * 32 * 32 * 4
    assert limits["copy_bytes_per_second"] > 1e8
    assert limits["loader_images_per_second"] > 0


def test_the_summary_takes_medians_and_their_ratio() -> None:
    def blocks(*rates: float) -> list[Block]:
        return [Block(images_per_second=rate, cpu_utilisation=0.9) for rate in rates]

    report = summary({"whole step": blocks(90, 10, 100), "bound": blocks(100, 120, 95)})
    assert report["whole step"] == {"median": 90, "lowest": 10, "highest": 100, "cpu_utilisation": 0.9}
    assert report["ratio"] == pytest.approx(0.9)


def test_an_unknown_subject_is_refused_in_one_line() -> None:
    done = subprocess.run([sys.executable, "-m", "ops.bench", "speed"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "bench: error: name what to measure: step, loader, builder, augment, sharpness, loss, lars, checkpoint, "
        "metrics, scaling, end_to_end, all\n",
    )
