"""What some queries say of runs whose numbers are made up, worked out by hand."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ops.grafana.answers import Span, filled_in
from ops.grafana.boards import committed_boards, panels_of

SPAN = Span(server="http://127.0.0.1:9090", end=0, seconds=60)
# Seconds per second of each stage. Run a waits for data; of run b rank 1 works three quarters of a step, rank 0 half.
STAGES = {
    ("a", "0", "data"): 0.5,
    ("a", "0", "forward"): 0.25,
    ("a", "0", "backward"): 0.125,
    ("a", "0", "augment"): 0.125,
    ("b", "0", "augment"): 0.125,
    ("b", "0", "forward"): 0.375,
    ("b", "0", "agree"): 0.5,
    ("b", "1", "augment"): 0.25,
    ("b", "1", "forward"): 0.5,
    ("b", "1", "agree"): 0.25,
}
IMAGES_PER_SECOND = 16
STEPS_PER_SECOND = 2


def input_series() -> list[dict[str, str]]:
    ranks = sorted({(run, rank) for run, rank, _ in STAGES})
    growth = {
        f'diptych_train_stage_seconds_total{{run="{run}", rank="{rank}", node="n{rank}", stage="{stage}"}}': seconds
        for (run, rank, stage), seconds in STAGES.items()
    }
    for run, rank in ranks:
        labels = f'{{run="{run}", rank="{rank}", node="n{rank}"}}'
        growth[f"diptych_train_images_total{labels}"] = IMAGES_PER_SECOND
        growth[f"diptych_train_steps_total{labels}"] = STEPS_PER_SECOND
    level = {
        'diptych_run_step{run="a", rank="0", node="n0"}': 100,
        'diptych_run_total_steps{run="a", rank="0", node="n0"}': 300,
        'diptych_run_ranks{run="b", rank="0", node="n0"}': 2,
        'up{job="diptych", run="b", rank="0", node="n0"}': 1,
        'up{job="diptych", run="b", rank="1", node="n1"}': 0,
    }
    return [{"series": name, "values": f"0+{each}x60"} for name, each in growth.items()] + [
        {"series": name, "values": f"{each}+0x60"} for name, each in level.items()
    ]


EXPECTED: dict[tuple[str, str, str], dict[str, float]] = {
    ("throughput", "Limited by", "{{run}}: {{cause}}"): {
        '{run="a", cause="loader"}': 0.5,
        '{run="b", cause="encoder"}': 0.4375,
    },
    # 16 images in a quarter of a second are 64 in a whole one, of the slower of two ranks.
    ("throughput", "What each part could deliver alone", "views alone"): {'{run="a"}': 128, '{run="b"}': 128},
    ("throughput", "What each part could deliver alone", "delivered"): {'{run="a"}': 16, '{run="b"}': 32},
    ("throughput", "Time left", "{{run}}"): {'{run="a"}': 100},
    ("fleet", "Ranks that do not", "{{run}}"): {'{run="b"}': 1},
    ("fleet", "Nodes", "{{run}}"): {'{run="b"}': 1},
    # Two steps a second: of run b's, rank 1 works 0.375 s.
    ("fleet", "Slowest rank", "rank {{rank}} on {{node}}"): {
        '{run="a", rank="0", node="n0"}': 0.5,
        '{run="b", rank="1", node="n1"}': 0.375,
    },
    # On average 0.3125 s: a sixth of the longest is waited away.
    ("fleet", "Lost to the slowest rank", "{{run}}"): {'{run="a"}': 0, '{run="b"}': 1 - 0.3125 / 0.375},
}


def test_verdict_bounds_and_stragglers_are_what_the_numbers_say(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    expressions = {
        (board["uid"].removeprefix("diptych-"), panel["title"], target["legendFormat"]): target["expr"]
        for board in committed_boards()
        for panel in panels_of(board)
        for target in panel.get("targets", ())
        if panel["type"] != "table"
    }
    asked = [
        {
            "expr": filled_in(expressions[key], SPAN),
            "eval_time": "60s",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
        }
        for key, expected in EXPECTED.items()
    ]
    test = {"interval": "1s", "input_series": input_series(), "promql_expr_test": asked}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "1s", "tests": [test]}))
    checked = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
