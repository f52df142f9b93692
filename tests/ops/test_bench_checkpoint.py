import json
from pathlib import Path

import pytest

from ops.bench.checkpoint import KINDS, Block, main, summary


def block(seconds: float) -> Block:
    return Block(seconds=seconds, longest_step_seconds=0.5, begin_seconds=0.1, write_seconds=2.0)


def test_what_is_lost_is_what_a_block_takes_longer_than_one_without_a_checkpoint() -> None:
    seconds = {"none": (4.0, 5.0, 9.0), "background": (5.1, 5.2, 5.9), "waited for": (7.0, 8.0, 6.0)}
    report = summary({kind: [block(value) for value in seconds[kind]] for kind in KINDS}, steps=10)
    assert report["step_seconds"] == 0.5
    assert report["background"]["lost_seconds"] == pytest.approx(0.2)
    assert report["background"]["lost_steps"] == pytest.approx(0.4)
    assert (report["waited for"]["lowest"], report["waited for"]["highest"]) == (1.0, 3.0)


def test_the_command_measures_and_leaves_nothing(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "--encoder.name=resnet18 --encoder.width=0.0625 --head.dim=8 --global_batch=16 --device=cpu --repeats=1"
    where = [f"--data.dir={shards}", f"--run_dir={tmp_path / 'runs' / 'x'}"]
    for busy in ("true", "false"):
        main([*flags.split(), *where, "--steps=3", "--step_seconds=0.01", f"--busy={busy}", "--json=true"])
        report = json.loads(capsys.readouterr().out)
        assert report["bytes"] > 100_000
        assert report["step_seconds"] > 0.005
        assert report["waited for"]["begin_seconds"] >= report["waited for"]["write_seconds"] * 0.9
    main([*flags.split(), *where, "--steps=3", "--step_seconds=0.01"])
    assert "s of training lost per checkpoint" in capsys.readouterr().out
    assert not list((tmp_path / "runs").iterdir())
