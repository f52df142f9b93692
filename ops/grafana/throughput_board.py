"""Throughput: what limits this run?"""

from grafana_foundation_sdk.models import dashboard

from ops.grafana.boards import Json
from ops.grafana.expressions import (
    RANKS,
    RUNS,
    STAGE_SECONDS,
    STEPS,
    UPDATE,
    bound,
    per_rank,
    per_run,
    rank_seconds_per_step,
    rate,
    ratio,
    relabelled,
    seconds_per_step,
    share_of_step,
)
from ops.grafana.layout import Row, board
from ops.grafana.panels import BAD, WARNING, Query, bars, lines, number, words
from ops.grafana.stages import CAUSES, STAGE_COLOURS

_BOUND_COLOURS = {
    "delivered": "#E02F44",
    "loader alone": "#FF9830",
    "views alone": "#FADE2A",
    "update alone": "#1F60C4",
}
_DONE = per_run(f"diptych_run_step{{{RUNS}}}", "max")
_TOTAL = per_run(f"diptych_run_total_steps{{{RUNS}}}", "max")
_IMAGES = "diptych_train_images_total"
_REMEDIES = """\
- **loader**: more `data.decode_threads`, a cache, a nearer disk
- **slowest rank**: Fleet names it
- **views**: `views.compile`, or more cores
- **encoder**: good, the device learns
- **communication**: fewer ranks or a faster network
- **watching**: raise `metrics.log_every_steps`
- **checkpoints**: raise `checkpoint.every_steps`
"""


def throughput_board() -> Json:
    """The dashboard."""
    return board(
        "Throughput",
        "What limits this run, and what would it gain if that were gone?",
        [
            Row("What limits this run", _verdict()),
            Row("Where the time goes: $run", _time(), each_run=True),
            Row("Speed", _speed()),
            Row("The loader's side", _arrival()),
        ],
        ranks=True,
    )


def _verdict() -> list[dashboard.Panel]:
    cause = relabelled(rate(STAGE_SECONDS, RUNS), "cause", "stage", CAUSES)
    return [
        number(
            "Limited by",
            "What takes the largest share of a step's time, over all ranks of the run, and that share. "
            "encoder means that the devices are busy with learning itself, which is what is wanted.",
            "percentunit",
            Query(f"topk by (run) (1, {share_of_step('cause', cause)})", "{{run}}: {{cause}}"),
            width=6,
            height=5,
            named=True,
            decimals=0,
        ),
        words("What then", _REMEDIES, width=6, height=5),
        number(
            "Images/s",
            "Source images that all ranks of a run consume in a second; an image's two views count once.",
            "suffix: images/s",
            Query(per_run(rate(_IMAGES, RUNS)), "{{run}}"),
            width=3,
            height=5,
            decimals=0,
        ),
        number(
            "Waiting for data",
            "Share of the time in which ranks had no batch to work on. Above 5 % the loader costs more than it should.",
            "percentunit",
            Query(
                ratio(
                    per_run(rate("diptych_train_data_wait_seconds_total", RUNS)),
                    per_run(rate("diptych_train_step_seconds_sum", RUNS)),
                ),
                "{{run}}",
            ),
            width=3,
            height=5,
            limits={0.05: WARNING, 0.2: BAD},
            decimals=1,
            alerts=["DiptychStarved"],
        ),
        number(
            "Done",
            "Share of the schedule's updates that have been made, earlier starts of the run included.",
            "percentunit",
            Query(ratio(_DONE, _TOTAL), "{{run}}"),
            width=3,
            height=5,
        ),
        number(
            "Time left",
            "Updates that are still to be made, at the present speed.",
            "s",
            Query(f"({_TOTAL} - {_DONE}) / {per_run(rate(STEPS, RUNS), 'max')}", "{{run}}"),
            width=3,
            height=5,
        ),
    ]


def _time() -> list[dashboard.Panel]:
    return [
        lines(
            "Seconds of an average step, by stage",
            "The stack is as high as a step is long. data is waiting for a batch, agree waiting for the other ranks at "
            "the boundary of steps, all_reduce the part of it that the backward pass did not hide. A stage that grows "
            "is where the time went.",
            "s",
            [Query(seconds_per_step("stage", RUNS), "{{stage}}")],
            width=10,
            height=10,
            stacked=True,
            span=(0, None),
            colours=STAGE_COLOURS,
        ),
        bars(
            "Share of each stage",
            "Of the time of all ranks; the longest bar is what the first panel names, less what belongs together.",
            "percentunit",
            [Query(f"sort_desc({share_of_step('stage', rate(STAGE_SECONDS, RUNS))})", "{{stage}}")],
            width=6,
            height=10,
            colours=STAGE_COLOURS,
        ),
        lines(
            "What each part could deliver alone",
            "Images/s of the loader's thread if nobody made it wait, of the views, and of the update (forward to "
            "optimizer) if they were all there is: the slowest rank's, times the ranks. Views and update share a "
            "device, the loader works beside them: what is delivered comes near the loader's line where that is the "
            "lowest, else near the two others' combination. The axis is logarithmic.",
            "suffix: images/s",
            _bounds(),
            width=8,
            height=10,
            logarithmic=True,
            colours=_BOUND_COLOURS,
        ),
    ]


def _bounds() -> list[Query]:
    return [
        Query(per_run(rate(_IMAGES, RUNS)), "delivered"),
        Query(
            bound(
                rate("diptych_data_images_total", RUNS),
                rate("diptych_data_stage_seconds_total", RUNS, 'stage!="blocked"'),
            ),
            "loader alone",
        ),
        Query(bound(rate(_IMAGES, RUNS), rate(STAGE_SECONDS, RUNS, 'stage="augment"')), "views alone"),
        Query(bound(rate(_IMAGES, RUNS), rate(STAGE_SECONDS, RUNS, UPDATE)), "update alone"),
    ]


def _speed() -> list[dashboard.Panel]:
    buckets = f"sum by (run, le) ({rate('diptych_train_step_seconds_bucket', RUNS)})"
    return [
        lines(
            "Images/s",
            "Of all ranks of a run. A run that is healthy draws a level line.",
            "suffix: images/s",
            [Query(per_run(rate(_IMAGES, RUNS)), "{{run}}")],
            span=(0, None),
            alerts=["DiptychThroughputDown"],
        ),
        lines(
            "Images/s of each rank",
            "Ranks go in step, so all lines lie on each other; one that leaves them has not been scraped.",
            "suffix: images/s",
            [Query(per_rank(rate(_IMAGES, RANKS)), "{{run}} rank {{rank}}")],
            span=(0, None),
        ),
        lines(
            "Time of a step",
            "Median, the slowest tenth and the slowest hundredth of all ranks' steps, within the histogram's buckets. "
            "A 99th percentile far above the median: something comes now and then, such as a log line, a checkpoint "
            "or a batch that is late.",
            "s",
            [
                Query(f"histogram_quantile({quantile}, {buckets})", f"{{{{run}}}} {name}")
                for quantile, name in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
            ],
            span=(0, None),
        ),
    ]


def _arrival() -> list[dashboard.Panel]:
    return [
        lines(
            "Batches that are ready",
            "Share of the queue that is full. Near 1 the loader is ahead; at 0 training waits for it.",
            "percentunit",
            [
                Query(
                    f"diptych_data_queue_batches{{{RANKS}}} / diptych_data_queue_capacity_batches{{{RANKS}}}",
                    "{{run}} rank {{rank}}",
                )
            ],
            width=6,
            span=(0, 1),
            alerts=["DiptychQueueEmpty"],
        ),
        lines(
            "Waiting for a batch, per step",
            "Seconds of each step in which a rank had nothing to work on. One rank that stands out has a slow disk or "
            "too few cores.",
            "s",
            [Query(rank_seconds_per_step('stage="data"'), "{{run}} rank {{rank}}")],
            width=6,
            span=(0, None),
        ),
        lines(
            "Read from shards",
            "Encoded bytes a second. 0 once all canvases are cached.",
            "Bps",
            [Query(per_run(rate("diptych_data_read_bytes_total", RUNS)), "{{run}}")],
            width=6,
            span=(0, None),
        ),
        lines(
            "Fetched over the network",
            "Bytes a second of remote data sets; 0 where shards are local.",
            "Bps",
            [Query(per_run(rate("diptych_data_fetched_bytes_total", RUNS)), "{{run}}")],
            width=6,
            span=(0, None),
        ),
    ]
