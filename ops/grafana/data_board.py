"""Data: does the loader keep up, where do images come from, and how many are damaged?"""

from grafana_foundation_sdk.models import dashboard

from ops.grafana.boards import Json
from ops.grafana.expressions import RANKS, RUNS, STEPS, per_rank, per_run, rate, ratio
from ops.grafana.layout import Row, board
from ops.grafana.panels import BAD, GOOD, WARNING, Query, lines, number

_IMAGES = "diptych_data_images_total"
_READ = "diptych_data_read_bytes_total"
_LOADER = "diptych_data_stage_seconds_total"
_BUDGET = per_run(f"diptych_data_bad_sample_budget_ratio{{{RUNS}}}", "max")
_SKIPPED = per_run(f"diptych_data_samples_skipped_total{{{RUNS}}}")
_MADE = per_run(f"{_IMAGES}{{{RUNS}}}")
_DAMAGED = f"({_SKIPPED} or 0 * {_MADE}) / {_MADE}"
_HITS = ratio(per_run(rate(_IMAGES, RUNS, 'source="cached"')), per_run(rate(_IMAGES, RUNS)))
_WORK = 'stage!="blocked"'
_RANK = "{{run}} rank {{rank}}"
LOADER_COLOURS = {
    "read": "#FF9830",
    "decode": "#1F60C4",
    "gather": "#B877D9",
    "transfer": "#E02F44",
    "draw": "#FADE2A",
    "blocked": "#96D98D",
}
SOURCE_COLOURS = {"decoded": "#1F60C4", "cached": "#73BF69"}


def data_board() -> Json:
    """The dashboard."""
    return board(
        "Data",
        "Does the loader keep up, where do images come from, and how many are damaged?",
        [
            Row("Now", _now()),
            Row("The loader's thread: $run", _thread(), each_run=True),
            Row("Bytes and batches", _bytes()),
            Row("Damage", _damage()),
        ],
        ranks=True,
    )


def _now() -> list[dashboard.Panel]:
    return [
        number(
            "Images made ready",
            "By the loaders of all ranks of a run.",
            "suffix: images/s",
            Query(per_run(rate(_IMAGES, RUNS)), "{{run}}"),
            decimals=0,
        ),
        number(
            "From the cache",
            "Share of images whose decoded canvas was there already. 0 in the first epoch.",
            "percentunit",
            Query(_HITS, "{{run}}"),
            decimals=1,
        ),
        number(
            "Loader ahead",
            "Share of the loaders' time in which the queue was full, so that they waited. High is good: above 10 % the "
            "loader is not what limits.",
            "percentunit",
            Query(
                ratio(per_run(rate(_LOADER, RUNS, 'stage="blocked"')), per_run(rate(_LOADER, RUNS))),
                "{{run}}",
            ),
            limits={0.0: BAD, 0.02: WARNING, 0.1: GOOD},
            decimals=0,
            alerts=["DiptychStarved"],
        ),
        number(
            "Batches ready",
            "In the queues of all ranks, as a share of their room.",
            "percentunit",
            Query(
                ratio(
                    per_run(f"diptych_data_queue_batches{{{RUNS}}}"),
                    per_run(f"diptych_data_queue_capacity_batches{{{RUNS}}}"),
                ),
                "{{run}}",
            ),
            limits={0.0: BAD, 0.1: WARNING, 0.3: GOOD},
            decimals=0,
            alerts=["DiptychQueueEmpty"],
        ),
        number(
            "Replaced images",
            "Share of images that were damaged and replaced by others, since the processes began.",
            "percentunit",
            Query(_DAMAGED, "{{run}}"),
            limits={0.0001: WARNING, 0.001: BAD},
            decimals=3,
        ),
        number(
            "Of the budget",
            "That share beside data.bad_sample_budget, which counts distinct samples of a rank; at 100 % look for the "
            "damaged shard before the run stops.",
            "percentunit",
            Query(f"{_DAMAGED} / {_BUDGET}", "{{run}}"),
            limits={0.5: WARNING, 1.0: BAD},
            decimals=1,
            alerts=["DiptychSkipsNearBudget", "DiptychSkipsOverBudget"],
        ),
    ]


def _thread() -> list[dashboard.Panel]:
    steps = f"/ on (run) group_left () sum by (run) ({rate(STEPS, RUNS)})"
    all_of_it = f"/ on (run) group_left () sum by (run) ({rate(_LOADER, RUNS)})"
    return [
        lines(
            "The loader's work for a step, by stage",
            "Seconds to read from shards, decode, gather from decoded canvases, transfer to the device and draw what "
            "the views are. What is highest is what to make faster, if the loader limits.",
            "s",
            [Query(f"sum by (run, stage) ({rate(_LOADER, RUNS, _WORK)}) {steps}", "{{stage}}")],
            stacked=True,
            span=(0, None),
            colours=LOADER_COLOURS,
        ),
        lines(
            "The loader's time",
            "Shares of its thread's time. blocked: the queue was full, and it waited; as long as that is there, it has "
            "time to spare.",
            "percentunit",
            [Query(f"sum by (run, stage) ({rate(_LOADER, RUNS)}) {all_of_it}", "{{stage}}")],
            stacked=True,
            span=(0, 1),
            colours=LOADER_COLOURS,
        ),
        lines(
            "Images by source",
            "Decoded anew, or gathered from canvases that were decoded before.",
            "suffix: images/s",
            [Query(f"sum by (source) ({rate(_IMAGES, RUNS)})", "{{source}}")],
            stacked=True,
            span=(0, None),
            colours=SOURCE_COLOURS,
        ),
    ]


def _bytes() -> list[dashboard.Panel]:
    return [
        lines(
            "Read from shards",
            "Encoded bytes a second, of each rank.",
            "Bps",
            [Query(per_rank(rate(_READ, RANKS)), _RANK)],
            width=6,
            span=(0, None),
        ),
        lines(
            "Speed of reading",
            "Bytes per second that the loader spends in reading: what the file system gives, not what is asked of it.",
            "Bps",
            [
                Query(
                    ratio(per_rank(rate(_READ, RANKS)), per_rank(rate(_LOADER, RANKS, 'stage="read"'))),
                    _RANK,
                )
            ],
            width=6,
            span=(0, None),
        ),
        lines(
            "Fetched over the network",
            "Bytes a second of remote data sets; 0 where shards are local.",
            "Bps",
            [Query(per_rank(rate("diptych_data_fetched_bytes_total", RANKS)), _RANK)],
            width=6,
            span=(0, None),
        ),
        lines(
            "Batches that are ready",
            "When the last step ended. At 0 training waits; at its room (data.prefetch_batches) the loader does.",
            "none",
            [
                Query(f"diptych_data_queue_batches{{{RANKS}}}", _RANK),
                Query(per_run(f"diptych_data_queue_capacity_batches{{{RUNS}}}", "max"), "{{run}} room"),
            ],
            width=6,
            span=(0, None),
        ),
    ]


def _damage() -> list[dashboard.Panel]:
    return [
        lines(
            "Images replaced, by reason",
            "A second, of all ranks. A damaged sample is met again in every epoch. No line: none was damaged.",
            "none",
            [Query(f"sum by (run, reason) ({rate('diptych_data_samples_skipped_total', RUNS)})", "{{run}} {{reason}}")],
            width=12,
            span=(0, None),
        ),
        lines(
            "Share replaced, beside the budget",
            "Since the processes began. Above the budget the run stops and says which data set to verify.",
            "percentunit",
            [Query(_DAMAGED, "{{run}} replaced"), Query(_BUDGET, "{{run}} budget")],
            width=12,
            span=(0, None),
        ),
    ]
