"""The alerts themselves: a real Prometheus, real runs of two ranks, one starved by its source, one with a rank killed.

The rules are those of ops/prometheus/rules with every duration divided by 60.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from fast_rules import fast_rules
from live_prometheus import firing, free_ports, live_prometheus, wait_until_true
from started_ranks import ROOT, start_ranks
from tiny_shards import tiny_shards

from ops.doctor.throttled_server import throttled_server
from ops.grafana.answers import Span, at_an_instant

BYTES_PER_SECOND = 20_000
"""An image has 3 kB, so 7 images a second: a step of 16 waits for two seconds, more than a busy machine computes."""
Alerts = set[tuple[str, str, str]]


@dataclass(frozen=True)
class Story:
    """What fired when, as (alert, run, rank)."""

    in_training: Alerts
    """Run `hungry` reads from a slow server, run `fed` from the disk."""
    waiting_ratio: dict[str, float]
    """Largest share of the time without a batch of any rank, by run, at that moment."""
    after_kill: Alerts
    """Rank 1 of `fed` was killed, and rank 0 has ended for it."""
    killed_statuses: list[int]
    """Exit statuses of `fed`."""
    after_stop: Alerts
    """`hungry` was asked to stop and has stopped, and Prometheus has looked for targets again."""
    stopped_statuses: list[int]
    """Exit statuses of `hungry`."""


def wait_for(told: Callable[[], bool], seconds: float, hint: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < deadline, hint()
        time.sleep(0.3)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("alerts")
    data = tiny_shards(directory / "data", images_per_class=64, classes=4, side=32)
    fast_rules(ROOT / "ops" / "prometheus" / "rules", directory / "rules")
    port = free_ports(5)
    endless = ["--schedule.epochs=100000", "--data.cache=none", "--checkpoint.every_steps=1000"]
    fed_flags = [*endless, f"--run_dir={directory / 'fed'}", f"--metrics.port={port + 1}"]
    hungry_flags = [*endless, f"--run_dir={directory / 'hungry'}", f"--metrics.port={port + 3}", "--data.remote=ranges"]
    (directory / "marks-fed").mkdir()
    (directory / "marks-hungry").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(live_prometheus(directory, port))
        url = stack.enter_context(throttled_server(data, BYTES_PER_SECOND))
        fed = start_ranks("nowhere", directory / "marks-fed", data, [fed_flags] * 2)
        stack.callback(fed.kill)
        hungry = start_ranks("nowhere", directory / "marks-hungry", data, [[*hungry_flags, f"--data.dir={url}"]] * 2)
        stack.callback(hungry.kill)

        # Long enough for the alert to have fired for `fed`, too, if it were to: a window of 5 s and 10 s more.
        now = Span(server=server, end=time.time(), seconds=30)
        both = "count(count_over_time(rank:diptych_train_data_wait:ratio_rate5m[1m]) >= 15) == 4"
        wait_until_true(both, now, seconds=90)
        starved = {("DiptychStarved", "hungry", "0"), ("DiptychStarved", "hungry", "1")}
        wait_for(lambda: bool(starved & firing(server)), 20, lambda: firing(server))
        in_training = firing(server)
        ratios = at_an_instant(
            "max by (run) (rank:diptych_train_data_wait:ratio_rate5m)", Span(server=server, end=time.time(), seconds=1)
        )

        fed.processes[1].kill()
        dead = {("DiptychDeadTarget", "fed", "0"), ("DiptychDeadTarget", "fed", "1")}
        wait_for(lambda: dead <= firing(server), 30, lambda: firing(server))
        after_kill = firing(server)

        hungry.signal(signal.SIGTERM)
        stopped = hungry.ends()
        # Prometheus passes on changes of targets every five seconds; here the two minutes of the alert are less.
        wait_until_true('absent(up{run="hungry"})', now, seconds=20)
        wait_for(lambda: not of_run("hungry", firing(server)), 5, lambda: firing(server))
        yield Story(
            in_training=in_training,
            waiting_ratio={series.labels["run"]: float(series.values[0]) for series in ratios},
            after_kill=after_kill,
            killed_statuses=[status for status, _ in fed.ends()],
            after_stop=firing(server),
            stopped_statuses=[status for status, _ in stopped],
        )


def of_run(run: str, alerts: Alerts) -> Alerts:
    return {alert for alert in alerts if alert[1] == run}


def ranks_for_which(alert: str, alerts: Alerts) -> set[tuple[str, str]]:
    return {(run, rank) for name, run, rank in alerts if name == alert}


def test_a_source_that_is_too_slow_starves_its_run_and_no_other(story: Story) -> None:
    starved = ranks_for_which("DiptychStarved", story.in_training)
    assert {run for run, _ in starved} == {"hungry"}
    assert story.waiting_ratio["hungry"] > 0.5
    assert story.waiting_ratio["fed"] < 0.15


def test_no_target_is_dead_while_all_ranks_train(story: Story) -> None:
    assert ranks_for_which("DiptychDeadTarget", story.in_training) == set()


def test_killing_a_rank_makes_the_targets_of_its_run_dead(story: Story) -> None:
    assert ranks_for_which("DiptychDeadTarget", story.after_kill) == {("fed", "0"), ("fed", "1")}
    assert story.killed_statuses == [1, -signal.SIGKILL]


def test_a_run_that_was_asked_to_stop_is_forgotten_and_a_killed_one_is_not(story: Story) -> None:
    assert story.stopped_statuses == [75, 75]
    assert of_run("hungry", story.after_stop) == set()
    assert ranks_for_which("DiptychDeadTarget", story.after_stop) == {("fed", "0"), ("fed", "1")}
