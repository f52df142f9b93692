"""Fleet: who is there, who is slow, and what do the machines have left?"""

from grafana_foundation_sdk.models import dashboard

from ops.grafana.boards import Json
from ops.grafana.expressions import (
    RANKS,
    RUNS,
    STEPS,
    WAITING,
    WORKING,
    per_rank,
    per_run,
    rank_seconds_per_step,
    rate,
    ratio,
)
from ops.grafana.gpu_panels import gpu_panels
from ops.grafana.layout import Row, board
from ops.grafana.panels import BAD, WARNING, Query, lines, number
from ops.grafana.rank_table import Column, rank_table

_UP = f'up{{job="diptych", {RUNS}}}'
_LAST_STEP = f"diptych_train_last_step_timestamp_seconds{{{RUNS}}} or diptych_run_start_timestamp_seconds{{{RUNS}}}"
_BUSY = rank_seconds_per_step(WORKING)
_WAITS = rank_seconds_per_step(WAITING)
_STEP_SECONDS = ratio(per_rank(rate("diptych_train_step_seconds_sum", RANKS)), per_rank(rate(STEPS, RANKS)))
_FREE = f"diptych_disk_free_bytes{{{RANKS}}}"
_DISKS = "{{node}} {{place}}"
_CPU = per_rank(rate("process_cpu_seconds_total", 'job="diptych"', RANKS))
_MEMORY = per_rank(f'process_resident_memory_bytes{{job="diptych", {RANKS}}}')
_RANK = "{{run}} rank {{rank}}"


def fleet_board() -> Json:
    """The dashboard."""
    return board(
        "Fleet",
        "Which ranks are there, which one do the others wait for, and what do their machines have left?",
        [
            Row("Who is there", _presence()),
            Row("Who is slow", _stragglers()),
            Row("Processes and disks", _processes()),
            Row("Needs a GPU", gpu_panels(), collapsed=True),
        ],
        ranks=True,
        hosts=True,
    )


def _presence() -> list[dashboard.Panel]:
    return [
        number(
            "Ranks that answer",
            "Exporters that Prometheus reached at its last scrape.",
            "none",
            Query(per_run(_UP), "{{run}}"),
            width=3,
        ),
        number(
            "Ranks that do not",
            "Of the world size that the run reports, less those that answer. Above 0: dead, or their network is.",
            "none",
            Query(f"{per_run(f'diptych_run_ranks{{{RUNS}}}', 'max')} - {per_run(_UP)}", "{{run}}"),
            width=3,
            limits={1: BAD},
            alerts=["DiptychDeadTarget", "DiptychRankNotScraped"],
        ),
        number(
            "Nodes",
            "Hosts on which ranks answer.",
            "none",
            Query(f"count by (run) (sum by (run, node) ({_UP}) > 0)", "{{run}}"),
            width=3,
        ),
        number(
            "Restarts",
            "How often the run had been started before.",
            "none",
            Query(per_run(f"diptych_run_restarts{{{RUNS}}}", "max"), "{{run}}"),
            width=3,
            limits={3: WARNING, 10: BAD},
            alerts=["DiptychRestarting"],
        ),
        number(
            "Since the last step",
            "Of the rank that has waited longest; before the first step, since the start. Far above the time of a step "
            "and between two scrapes: the run stands still.",
            "s",
            Query(f"time() - {per_run(_LAST_STEP, 'min')}", "{{run}}"),
            limits={60: WARNING, 300: BAD},
            decimals=1,
            alerts=["DiptychStalled"],
        ),
        number(
            "Slowest rank",
            "The rank that works longest in a step, and how long: the others wait for it in agree, gather and "
            "all_reduce.",
            "s",
            Query(f"topk by (run) (1, {_BUSY})", "rank {{rank}} on {{node}}"),
            named=True,
            alerts=["DiptychStraggler"],
        ),
        number(
            "Lost to the slowest rank",
            "Share of the ranks' working time that would be gained if all worked as long as they do on average. "
            "Above 10 %: look at the slowest rank's machine.",
            "percentunit",
            Query(f"1 - {per_run(_BUSY, 'avg')} / {per_run(_BUSY, 'max')}", "{{run}}"),
            limits={0.1: WARNING, 0.25: BAD},
            decimals=1,
        ),
    ]


def _stragglers() -> list[dashboard.Panel]:
    return [
        rank_table(
            "Ranks",
            "A line for each rank; click a heading to sort. The straggler is the one with the most Works and the "
            "least Waits.",
            [
                Column("Answers", per_rank(f'up{{job="diptych", {RANKS}}}'), "bool_yes_no"),
                Column("Step", per_rank(f"diptych_run_step{{{RANKS}}}"), "none"),
                Column("Time of a step", _STEP_SECONDS, "s"),
                Column("Works", _BUSY, "s"),
                Column("Waits for others", _WAITS, "s"),
                Column("CPU cores", _CPU, "none"),
                Column("Memory", _MEMORY, "bytes"),
                Column("Open files", per_rank(f'process_open_fds{{job="diptych", {RANKS}}}'), "none"),
                Column("Runs for", f"time() - {per_rank(f'diptych_run_start_timestamp_seconds{{{RANKS}}}')}", "s"),
            ],
            height=7,
        ),
        lines(
            "Time of a step",
            "Ranks go in step: the lines lie on each other.",
            "s",
            [Query(_STEP_SECONDS, _RANK)],
            span=(0, None),
        ),
        lines(
            "Works, per step",
            "Time of a step outside agree, gather and all_reduce, waiting for its own loader included. The highest "
            "line is the straggler. Collectives within the network (BatchNorm over all ranks) are not told apart.",
            "s",
            [Query(_BUSY, _RANK)],
            span=(0, None),
        ),
        lines(
            "Waits for others, per step",
            "Time in agree, gather and all_reduce. The lowest line is the straggler; all high: the network is slow.",
            "s",
            [Query(_WAITS, _RANK)],
            span=(0, None),
        ),
    ]


def _processes() -> list[dashboard.Panel]:
    return [
        lines(
            "Memory",
            "Resident memory of each rank's process. One that climbs without end will be killed.",
            "bytes",
            [Query(_MEMORY, _RANK)],
            width=6,
            span=(0, None),
        ),
        lines(
            "CPU",
            "Cores that each rank's process keeps busy, all threads together.",
            "none",
            [Query(_CPU, _RANK)],
            width=6,
            span=(0, None),
        ),
        lines(
            "Room on disks",
            "Free share of the file systems of the run directory and of the caches. Checkpoints fail at 0.",
            "percentunit",
            [
                Query(f"min by (node, place) ({_FREE} / diptych_disk_size_bytes{{{RANKS}}})", _DISKS),
            ],
            width=6,
            span=(0, 1),
            limits={0.0: BAD, 0.05: WARNING, 0.1: "green"},
            alerts=["DiptychDiskLow"],
        ),
        lines(
            "Free bytes on disks",
            "Of the same file systems; a checkpoint's size is on the dashboard Learning.",
            "bytes",
            [Query(f"min by (node, place) ({_FREE})", _DISKS)],
            width=6,
            span=(0, None),
            alerts=["DiptychDiskFilling"],
        ),
    ]
