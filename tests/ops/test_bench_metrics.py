import json
from pathlib import Path

import pytest

from ops.bench.metrics import main

FLAGS = "--encoder.name=resnet18 --encoder.width=0.0625 --head.dim=8 --global_batch=16 --device=cpu --steps=2"


def test_the_parts_are_measured_and_added_up(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*FLAGS.split(), f"--data.dir={shards}", "--repeats=1", "--calls=20", "--metrics.log_every_steps=10"]
    main([*flags, "--json=true"])
    report = json.loads(capsys.readouterr().out)
    clock, record, with_line, page = report["parts"].values()
    assert min(clock, record, page) > 0
    pages = page * report["step_seconds"] / 15
    assert report["seconds_per_step"] == pytest.approx(clock + record + (with_line - record) / 10 + pages)
    assert report["share"] == pytest.approx(report["seconds_per_step"] / report["step_seconds"])
    main(flags)
    assert "of a step, all together" in capsys.readouterr().out
