"""A pod waits until all pods of its Job can be found by name."""

import subprocess
import sys
import time

import pytest

from ops.k8s import wait_for_pods


def test_pods_are_named_after_the_first() -> None:
    assert wait_for_pods.pod_names("diptych-one-0.diptych-one", 3) == [
        "diptych-one-0.diptych-one",
        "diptych-one-1.diptych-one",
        "diptych-one-2.diptych-one",
    ]


@pytest.mark.parametrize("first", ["diptych-0", "diptych-1.diptych", "diptych.diptych", "", "0.diptych"])
def test_a_name_that_no_first_pod_has_is_refused_in_one_line(first: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops.k8s.wait_for_pods", f"--first={first}", "--pods=2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"wait_for_pods: error: --first={first}: not the name of a Job's first pod, NAME-0.SERVICE\n"
    )


def test_a_name_is_resolved_or_not() -> None:
    assert wait_for_pods.has_address("localhost")
    assert not wait_for_pods.has_address("no-such-pod.invalid")


def test_it_ends_when_the_last_has_come_and_says_once_a_minute_who_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = 0.0
    comes = {"a-0.a": 0.0, "a-1.a": 65.0, "a-2.a": 130.0}

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(wait_for_pods, "has_address", lambda name: clock >= comes[name])
    wait_for_pods.wait(list(comes))
    assert clock == 130
    assert capsys.readouterr().out.splitlines() == [
        "wait_for_pods: 2 of 3 have no address: a-1.a, a-2.a",
        "wait_for_pods: 2 of 3 have no address: a-1.a, a-2.a",
        "wait_for_pods: 1 of 3 have no address: a-2.a",
        "wait_for_pods: all 3 have addresses",
    ]
