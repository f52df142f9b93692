import time
from typing import Any

import pytest
import torch

from train.stages import StageClock

CPU = torch.device("cpu")


class Moment:
    """What the clock needs of a CUDA event; the device has come as far as `reached`."""

    recorded = 0
    reached = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Moment.recorded += 1
        self.number = Moment.recorded

    def query(self) -> bool:
        return self.number <= Moment.reached

    def elapsed_time(self, later: "Moment") -> float:
        assert later.query(), "waits for the device"
        return 1000.0 * (later.number - self.number)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.cuda, "Event", Moment)
    Moment.recorded = Moment.reached = 0
    return torch.device("cuda")


def test_all_of_the_time_is_some_stages() -> None:
    clock = StageClock(CPU)
    start = time.perf_counter()
    for _ in range(3):
        clock.enter("data")
        time.sleep(0.01)
        clock.enter("forward")
        time.sleep(0.02)
    clock.leave()
    elapsed = time.perf_counter() - start
    seconds = clock.take()
    assert list(seconds) == ["data", "forward"]
    assert sum(seconds.values()) == pytest.approx(elapsed, abs=1e-3)
    assert seconds["data"] >= 0.03
    assert seconds["forward"] >= 0.06


def test_what_was_told_is_not_told_again_and_what_goes_on_is_told_later() -> None:
    clock = StageClock(CPU)
    clock.enter("data")
    clock.enter("forward")
    assert list(clock.take()) == ["data"]
    assert clock.take() == {}
    clock.enter("loss")
    assert list(clock.take()) == ["forward"]


def test_time_outside_of_steps_is_no_stages() -> None:
    clock = StageClock(CPU)
    clock.enter("checkpoint")
    clock.leave()
    time.sleep(0.05)
    clock.enter("data")
    clock.enter("forward")
    assert sum(clock.take().values()) < 0.05


def test_on_a_device_the_clock_tells_what_the_device_has_done_and_never_waits(device: torch.device) -> None:
    clock = StageClock(device)
    clock.enter("data")  # moment 1
    clock.enter("forward")  # 2
    clock.enter("backward")  # 3
    clock.enter("data")  # 4
    assert clock.take() == {}
    Moment.reached = 3
    assert clock.take() == {"data": 1.0, "forward": 1.0}
    clock.enter("forward")  # 5
    Moment.reached = 5
    assert clock.take() == {"backward": 1.0, "data": 1.0}


def test_profilers_see_the_stages_as_ranges(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    seen: list[str] = []

    class Range:
        def __init__(self, stage: str) -> None:
            self.stage = stage

        def __enter__(self) -> None:
            seen.append(f"{self.stage} begins")

        def __exit__(self, *_: Any) -> None:
            seen.append(f"{self.stage} ends")

    monkeypatch.setattr(torch.cuda.nvtx, "range", Range)
    clock = StageClock(device, nvtx=True)
    clock.enter("forward")
    clock.enter("backward")
    clock.enter("all_reduce", shown=False)  # in another thread, where the range of backward cannot end
    clock.enter("optimizer")
    clock.leave()
    names = ["forward", "backward", "optimizer"]
    assert seen == [f"{name} {what}" for name in names for what in ("begins", "ends")]
