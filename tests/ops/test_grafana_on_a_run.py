"""The dashboards' queries, answered by a real Prometheus that scrapes a real run of two ranks."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from live_prometheus import free_ports, live_prometheus, wait_until_true
from PIL import Image
from started_ranks import ROOT, start_ranks
from tiny_shards import tiny_shards

from ops.grafana.answers import Span, at_an_instant, over_a_range
from ops.grafana.boards import Json, committed_boards, needs_a_gpu, panels_of
from pipelines.manifest import open_split
from train.errors import RunError

SCRAPES = 12
"""So many of each rank fill the window of rates."""


def data_with_a_damaged_sample(directory: Path) -> Path:
    data = tiny_shards(directory, images_per_class=32, classes=4, side=32)
    split = open_split(str(data), "train")
    sample = split.samples[0]
    with (data / split.shards[int(sample["shard"])].file).open("r+b") as shard:
        shard.seek(int(sample["offset"]) + 40)
        byte = shard.read(1)[0]
        shard.seek(-1, 1)
        shard.write(bytes([byte ^ 0xFF]))
    return data


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Span]:
    directory = tmp_path_factory.mktemp("watched")
    data = data_with_a_damaged_sample(directory / "data")
    port = free_ports(3)
    flags = [
        f"--metrics.port={port + 1}",
        "--schedule.epochs=100000",
        "--checkpoint.every_steps=40",
        "--data.cache=none",
        "--data.bad_sample_budget=0.5",
    ]
    scraped_often = f"count(count_over_time(diptych_train_epoch[{SCRAPES}s]) >= {SCRAPES - 1}) == 2"
    ready = f"({scraped_often}) and on () diptych_checkpoint_write_seconds_count > 1"
    with live_prometheus(directory, port) as server:
        ranks = start_ranks("nowhere", directory, data, [flags, flags])
        try:
            yield wait_until_true(ready, Span(server=server, end=time.time(), seconds=30), seconds=120)
        finally:
            ranks.signal(signal.SIGTERM)
            ends = ranks.ends()
    assert [status for status, _ in ends] == [75, 75], ends


def unanswered(boards: list[Json], span: Span) -> list[str]:
    """Queries of panels that need no GPU to which the server has no finite number to say."""
    return [
        f"{board['title']}, {panel['title']}: {target['expr']}"
        for board in boards
        for panel in panels_of(board)
        if not needs_a_gpu(panel)
        for target in panel.get("targets", ())
        if not any(np.isfinite(series.values).all() for series in at_an_instant(target["expr"], span))
    ]


def value(expression: str, span: Span) -> float:
    (series,) = at_an_instant(expression, span)
    return float(series.values[0])


def query(board: str, title: str, legend: str | None = None) -> str:
    """The expression of the first panel of this title."""
    (found,) = [
        str(target["expr"])
        for each in committed_boards()
        if each["uid"] == f"diptych-{board}"
        for panel in panels_of(each)
        if panel["title"] == title
        for target in panel["targets"]
        if legend in (None, target["legendFormat"])
    ][:1]
    return found


def test_every_query_that_needs_no_gpu_is_answered(watched: Span) -> None:
    assert unanswered(committed_boards(), watched) == []


def test_a_misspelt_metric_would_be_noticed(watched: Span) -> None:
    board = committed_boards()[0]
    target = next(panels_of(board))["targets"][0]
    target["expr"] = target["expr"].replace("diptych_data_images_total", "diptych_data_images")
    assert len(unanswered([board], watched)) == 1


def test_every_variable_has_values(watched: Span) -> None:
    for board in committed_boards():
        for variable in board["templating"]["list"]:
            if variable["type"] != "query" or "DCGM" in variable["definition"]:
                continue
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert asked is not None
            values = {series.labels[asked[2]] for series in at_an_instant(asked[1], watched)}
            assert values, variable["name"]
            assert variable["name"] != "rank" or values == {"0", "1"}
            assert variable["name"] != "run" or values == {"run"}


def test_every_stage_of_the_run_has_a_cause_and_no_other_is_named(watched: Span) -> None:
    seen = {series.labels["stage"] for series in at_an_instant("diptych_train_stage_seconds_total", watched)}
    shares = query("throughput", "Limited by").removeprefix("topk by (run) (1, ").removesuffix(")")
    named = re.findall(r'"stage", "([\w|]+)"', shares)
    assert {stage for stages in named for stage in stages.split("|")} == seen
    answers = at_an_instant(shares, watched)
    assert all(series.labels["cause"] for series in answers)
    assert sum(float(series.values[0]) for series in answers) == pytest.approx(1)
    largest = max(answers, key=lambda series: float(series.values[0]))
    (verdict,) = at_an_instant(query("throughput", "Limited by"), watched)
    assert verdict.labels == largest.labels


def test_the_stack_of_stages_is_as_high_as_a_step_is_long(watched: Span) -> None:
    stack = at_an_instant(query("throughput", "Seconds of an average step, by stage"), watched)
    step = value("sum(rate(diptych_train_step_seconds_sum[10s])) / sum(rate(diptych_train_steps_total[10s]))", watched)
    assert sum(float(series.values[0]) for series in stack) == pytest.approx(step, rel=0.1)


def test_no_part_alone_would_be_slower_than_all_together(watched: Span) -> None:
    title = "What each part could deliver alone"
    delivered = value(query("throughput", title, "delivered"), watched)
    assert delivered > 0
    for part in ("loader alone", "views alone", "update alone"):
        assert value(query("throughput", title, part), watched) > 0.9 * delivered, part


def test_the_fleet_is_two_ranks_on_one_node(watched: Span) -> None:
    assert value(query("fleet", "Ranks that answer"), watched) == 2
    assert value(query("fleet", "Ranks that do not"), watched) == 0
    assert value(query("fleet", "Nodes"), watched) == 1
    assert value(query("fleet", "Since the last step"), watched) < 30


def test_what_is_not_known_yet_is_not_shown(watched: Span) -> None:
    epochs, losses, ages = (
        over_a_range(query("learning", title), replace(watched, seconds=120))
        for title in ("Epoch", "Loss", "Lost by a crash now")
    )
    assert epochs[0].values.min() > 0
    assert losses[0].values.min() > 1
    assert 0 <= ages[0].values.min() <= ages[0].values.max() < 120


def test_the_damaged_sample_is_seen(watched: Span) -> None:
    (series,) = at_an_instant(query("data", "Images replaced, by reason"), watched)
    assert series.labels == {"run": "run", "reason": "checksum"}
    assert 0 < value(query("data", "Replaced images"), watched) < 0.1


def test_ranges_cover_the_span(watched: Span) -> None:
    for series in over_a_range(query("throughput", "Images/s of each rank"), watched):
        assert series.times[-1] == pytest.approx(watched.end, abs=1.5)
        assert (np.diff(series.times) == 1).all()
        assert series.name("{{run}} rank {{rank}}") in {"run rank 0", "run rank 1"}


def test_pictures_are_drawn_from_the_answers(watched: Span, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra dev is not installed")
    from ops.grafana.render import render

    paths = render(watched, tmp_path / "pictures")
    assert [path.name for path in paths] == [
        f"dashboard-{name}.png" for name in ("data", "fleet", "learning", "throughput")
    ]
    for path in paths:
        with Image.open(path) as image:
            assert image.width == 1600
            assert image.height > 800
            assert len(image.getcolors() or ()) > 20  # lines and letters, not an empty sheet
        assert path.stat().st_size < 200_000


def test_a_server_that_is_not_there_is_one_line() -> None:
    command = [sys.executable, "-m", "ops.grafana.render", f"--prometheus=http://127.0.0.1:{free_ports(1)}"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert re.fullmatch(
        r"grafana.render: error: prometheus: http://\S+ does not answer as one does \(.*\)\n", asked.stderr
    )


def test_what_the_server_refuses_is_told_in_its_words(watched: Span) -> None:
    with pytest.raises(RunError, match=r"refused sum\(: .*parse error"):
        at_an_instant("sum(", watched)
