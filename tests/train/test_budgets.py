"""What a training step may cost, exactly: stands in for a GPU's speed, see docs/performance_budgets.md.

The counts are of torch's operators, not of the machine. They are to be lowered when they shrink, and raised only by who
knows what for.
"""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import torch
from rank_pool import RankPool
from traffic_on_ranks import traffic_of_steps
from watched_step import RECORD, ROOT, WAYS, differences, recorded_operators, step_config, trainer_for, watched_step

from model.compiled import graph_breaks
from ops.bench.counting import Work
from ops.bench.made_batch import made_batch
from ops.bench.wire_formulas import log_traffic, sent_bytes, step_traffic
from ops.bench.wire_watch import GRADIENT, Traffic, TrafficByKind
from train.config import DDPConfig, NonFiniteConfig, PretrainConfig


@dataclass(frozen=True)
class Budget:
    """Of one part of a step; what they count, ops/bench/counting.py says."""

    dispatches: int
    bytes_moved: int
    held_bytes: int


BUDGETS: dict[str, dict[str, Budget]] = {
    "cpu": {
        "augment": Budget(138, 15_137_956, 837_976),
        "forward": Budget(137, 35_898_496, 9_588_032),
        "loss": Budget(34, 27_996, 9_593_360),
        "backward": Budget(211, 52_746_596, 9_926_924),
        "optimizer": Budget(481, 9_387_932, 925_985),
        "evaluation": Budget(66, 103_488, 220_340),
    },
    "cuda": {
        "augment": Budget(139, 15_432_868, 837_976),
        "forward": Budget(162, 19_047_392, 5_161_200),
        "loss": Budget(44, 47_452, 5_167_236),
        "backward": Budget(222, 27_477_848, 5_332_156),
        "optimizer": Budget(22, 11_549_204, 1_546_444),
        "evaluation": Budget(66, 103_488, 122_036),
    },
}
"""By way and part of `watched_step`: ResNet-18 at an eighth of its width, 8 images of 32 pixels."""

GRAPHS = 2
"""That torch.compile makes of a step with compile and views.compile: the encoder, and the colours of the views."""

SENT_BYTES = {2: 739_120, 4: 1_108_680}
"""That each rank of a ring sends in a step of the same network, by their number."""

SHOW = "`python tests/watched_step.py` shows the operators that are new"
WAIT_FOR_THE_DEVICE = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "index.Tensor",
    "equal",
    "is_nonzero",
)


def complaints(way: str, budgets: dict[str, Budget], counted: dict[str, Work]) -> list[str]:
    """Lines that say which part grew or shrank, from what to what."""
    lines = []
    for part in sorted(budgets.keys() | counted.keys()):
        allowed = asdict(budgets.get(part, Budget(0, 0, 0)))
        work = counted.get(part, Work())
        for what, before in allowed.items():
            now = getattr(work, what)
            if now > before:
                lines.append(f"{way}, {part}: {what} grew from {before:_} to {now:_}; {SHOW}")
            elif now < before:
                lines.append(f"{way}, {part}: {what} shrank from {before:_} to {now:_}: lower the budget")
    return lines


@pytest.fixture(scope="module")
def steps() -> dict[str, dict[str, Work]]:
    return {way: watched_step(way) for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
def test_a_step_costs_what_it_may_cost(way: str, steps: dict[str, dict[str, Work]]) -> None:
    found = complaints(way, BUDGETS[way], steps[way])
    assert not found, "\n".join(["", *found])


def test_the_recorded_operators_are_those_of_the_budgets() -> None:
    recorded: Counter[tuple[str, str]] = Counter()
    for (way, part, _), count in recorded_operators().items():
        recorded[way, part] += count
    budgets = {(way, part): budget.dispatches for way in WAYS for part, budget in BUDGETS[way].items()}
    assert recorded == budgets, f"`python tests/watched_step.py --write` brings {RECORD.name} up to date"


@pytest.mark.parametrize("way", WAYS)
def test_no_part_of_a_step_waits_for_a_value(way: str, steps: dict[str, dict[str, Work]]) -> None:
    for part, work in steps[way].items():
        waiting = [name for name in work.operators.elements() if name.startswith(WAIT_FOR_THE_DEVICE)]
        # Adam of the probe asks for its two step counters, which lie on the host; on CUDA it is `capturable`.
        assert waiting == (["_local_scalar_dense.default"] * 2 if part == "evaluation" else []), part


@pytest.mark.parametrize("way", WAYS)
def test_counts_are_the_same_with_two_threads_and_without_onednn(
    way: str, steps: dict[str, dict[str, Work]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched_step(way, threads=2) == steps[way]
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert watched_step(way) == steps[way]


@pytest.mark.slow
def test_counts_are_the_same_on_a_processor_without_vector_extensions() -> None:
    oldest = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "PYTHONPATH": str(ROOT)}
    script = [sys.executable, str(ROOT / "tests" / "watched_step.py")]
    done = subprocess.run(script, env=os.environ | oldest, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "no operator is new or gone\n"), done.stderr


def test_an_operator_more_is_told_with_its_part(
    monkeypatch: pytest.MonkeyPatch, steps: dict[str, dict[str, Work]]
) -> None:
    from model.simclr import SimCLR

    def forward(self: SimCLR, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.encoder(views.clone())
        return self.head(h), h.detach()

    monkeypatch.setattr(SimCLR, "forward", forward)
    before = {part: Budget(work.dispatches, work.bytes_moved, work.held_bytes) for part, work in steps["cpu"].items()}
    counted = watched_step("cpu")
    views = 16 * 3 * 32 * 32 * 4
    forward_before = before["forward"]
    dispatches, moved = forward_before.dispatches, forward_before.bytes_moved
    told = complaints("cpu", before, counted)
    assert f"cpu, forward: dispatches grew from {dispatches:_} to {dispatches + 1:_}; {SHOW}" in told
    assert f"cpu, forward: bytes_moved grew from {moved:_} to {moved + 2 * views:_}; {SHOW}" in told
    assert not any(line.startswith("cpu, augment") for line in told)
    old = {("cpu", part, name): count for part, work in steps["cpu"].items() for name, count in work.operators.items()}
    new = {("cpu", part, name): count for part, work in counted.items() for name, count in work.operators.items()}
    assert differences(old, new) == ["cpu forward clone.default: 0 -> 1"]


def test_a_part_that_shrank_asks_for_a_lower_budget() -> None:
    work = Work(operators=Counter({"add.Tensor": 3}), bytes_moved=10, held_bytes=5)
    assert complaints("cpu", {"loss": Budget(4, 10, 5)}, {"loss": work}) == [
        "cpu, loss: dispatches shrank from 4 to 3: lower the budget"
    ]
    assert len(complaints("cpu", {}, {"new part": work})) == 3


def test_encoder_and_colours_compile_to_one_graph_each(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []
    compile_by_inductor = torch.compile

    def keep(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def compile_by_nothing(function: Any, **options: Any) -> Any:
        return compile_by_inductor(function, backend=keep, **options)

    monkeypatch.setattr(torch, "compile", compile_by_nothing)
    monkeypatch.setattr("train.distributed.refuse_without_compiler", lambda *_, **__: None)
    torch.compiler.reset()
    before = graph_breaks()
    config = step_config("cpu")
    config = replace(config, compile=True, views=replace(config.views, compile=True))
    trainer = trainer_for(config)
    for step in range(3):
        trainer.train_step(made_batch(config, step, torch.device("cpu")))
    torch.compiler.reset()
    assert len(graphs) == GRAPHS, "a part was broken up, or compiled anew for another batch"
    assert graph_breaks() == before


@pytest.mark.parametrize("flagged", [False, True])
def test_two_ranks_send_what_the_formulas_say(two_ranks: RankPool, flagged: bool) -> None:
    config = step_config("cpu")
    if flagged:
        config = replace(config, non_finite=NonFiniteConfig(policy="skip"), ddp=DDPConfig(comm_hook="bf16"))
    traffic = traffic_is_by_the_formulas(two_ranks, config, 2)
    if not flagged:
        assert sum(sent_bytes(key[1], each.bytes, 2) for key, each in traffic.items()) == SENT_BYTES[2]


def test_four_ranks_send_what_the_formulas_say(four_ranks: RankPool) -> None:
    traffic = traffic_is_by_the_formulas(four_ranks, step_config("cpu"), 4)
    assert sum(sent_bytes(key[1], each.bytes, 4) for key, each in traffic.items()) == SENT_BYTES[4]


def traffic_is_by_the_formulas(pool: RankPool, config: PretrainConfig, ranks: int) -> TrafficByKind:
    """Check all ranks; returns what one puts in."""
    answers = pool.run(traffic_of_steps, config)
    step: TrafficByKind
    step, log, network = answers[0]
    assert all(answer == answers[0] for answer in answers)
    buckets = step[GRADIENT, "all-reduce"].calls
    assert buckets == 1  # 0.7 MB
    expected = step_traffic(config, network, ranks, "cpu")
    assert expected | {(GRADIENT, "all-reduce"): expected[GRADIENT, "all-reduce"] + Traffic(buckets, 0)} == step
    assert log_traffic(config, network, ranks) == log
    return step
