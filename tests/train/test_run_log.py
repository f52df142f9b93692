"""Each step is told once, whatever the disk does meanwhile."""

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.canvases import LoaderWork
from train.errors import RunError
from train.log import RunLog
from train.log_line import LogLine
from train.loop import StepRecord


def record(step: int, loss: float = 1.0, **health: float) -> StepRecord:
    line = LogLine(
        step=step,
        epoch=step / 4,
        loss=loss,
        learning_rate=0.1,
        images_per_second=100.0,
        gradient_norm=1.0,
        largest_trust_ratio=None,
        skipped_steps=0,
        left_out_batches=0,
        probe_top1=0.5,
        health=health,
        stage_seconds={},
    )
    return silent(step, line)


def silent(step: int, line: LogLine | None = None) -> StepRecord:
    """Of a step that has no line."""
    return StepRecord(
        step=step,
        images=1,
        step_seconds=0.1,
        stage_seconds={},
        skip_reasons=(),
        work=LoaderWork(),
        log=line,
    )


def steps(path: Path) -> list[int]:
    text = path.read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line)["step"] for line in text.splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "metrics.jsonl"


def test_logging_steps_are_written_at_once_and_printed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(path, 0, 4)
    for step in (1, 2):
        log.record(record(step))
        log.record(silent(step))
        assert steps(path) == list(range(1, step + 1))
    log.close()
    assert capsys.readouterr().out.splitlines()[0].startswith("step 1  epoch 0.25  loss 1.0000")


def test_numbers_that_are_not_finite_are_null(path: Path) -> None:
    log = RunLog(path, 0, 4)
    log.record(record(1, loss=float("nan"), effective_rank=float("inf"), alignment=0.5))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line["loss"] is None
    assert line["health"] == {"effective_rank": None, "alignment": 0.5}


def test_lines_wait_while_the_directory_is_gone_and_are_written_when_it_is_back(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(path, 0, 9)
    log.record(record(1))
    away = path.parent.rename(path.parent.with_name("away"))
    for step in (2, 3):
        log.record(record(step))
    assert not path.parent.exists()
    assert [one.getMessage() for one in caplog.records] == [  # once, not at every line
        f"{path} cannot be written (No such file or directory); its lines wait in memory"
    ]
    away.rename(path.parent)
    assert steps(path) == [1]
    log.record(record(4))
    assert steps(path) == [1, 2, 3, 4]


def test_lines_that_wait_at_the_end_have_a_last_chance(path: Path) -> None:
    log = RunLog(path, 0, 9)
    away = path.parent.rename(path.parent.with_name("away"))
    log.record(record(1))
    away.rename(path.parent)
    log.close()
    assert steps(path) == [1]


class FullDisk(io.FileIO):
    """Takes so many bytes in all, and a few at a time; then there is no room."""

    room = 0

    def write(self, data: Any, /) -> int:
        part = bytes(data)[: min(50, FullDisk.room)]
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        FullDisk.room -= len(part)
        return super().write(part)


@pytest.mark.parametrize("room", [0, 1, 100, 200])
def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    log = RunLog(path, 0, 9)
    log.record(record(1))
    real_open = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "open", lambda self, *a, **k: FullDisk(self, "ab") if a == ("ab",) else real_open(self, *a, **k)
        )
        FullDisk.room = room
        log.record(record(2))
        assert steps(path) == [1]
        log.record(record(3))
        assert steps(path) == [1]
        FullDisk.room = 10_000
        log.record(record(4))  # in parts
    assert steps(path) == [1, 2, 3, 4]


def test_a_resumed_run_tells_each_step_once_and_drops_what_a_crash_cut_off(path: Path) -> None:
    log = RunLog(path, 0, 9)
    for step in range(1, 7):
        log.record(record(step))
    with path.open("ab") as file:
        file.write(b'{"step": 7, "lo')
    log = RunLog(path, 4, 9)
    assert steps(path) == [1, 2, 3, 4]
    for step in (5, 6, 7):
        log.record(record(step))
    assert steps(path) == [1, 2, 3, 4, 5, 6, 7]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("rest", [b"\0\0\0\0", b"\xff\xfe", b"7", b"[]\n", b'{"loss": 1}\n'])
def test_what_is_no_line_does_not_stop_a_run_from_resuming(path: Path, rest: bytes) -> None:
    RunLog(path, 0, 9).record(record(1))
    with path.open("ab") as file:
        file.write(rest)
    RunLog(path, 1, 9).record(record(2))
    assert steps(path) == [1, 2]


def test_a_line_that_lost_only_its_end_of_line_is_kept(path: Path) -> None:
    RunLog(path, 0, 9).record(record(1))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    RunLog(path, 1, 9).record(record(2))
    assert steps(path) == [1, 2]


def test_going_back_forgets_lines_on_disk_and_in_memory(path: Path) -> None:
    log = RunLog(path, 0, 9)
    for step in (1, 2, 3):
        log.record(record(step))
    away = path.parent.rename(path.parent.with_name("away"))
    log.record(record(4))
    away.rename(path.parent)
    log.rewind(2)
    assert steps(path) == [1, 2]
    for step in (3, 4):
        log.record(record(step, loss=2.0))
    assert steps(path) == [1, 2, 3, 4]


def test_a_disk_that_cannot_forget_is_refused_before_a_step_is_told_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(path, 0, 9)
    for step in (1, 2, 3):
        log.record(record(step))

    def full(self: Path, text: str) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(RunError, match=r"lines after step 2 cannot be removed \(No space left on device\)"):
            RunLog(path, 2, 9)
        RunLog(path, 3, 9)  # there is nothing to remove
        log.rewind(2)
        assert "lines after step 2 could not be removed (No space left on device)" in caplog.text
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]
    assert steps(path) == [1, 2, 3]
