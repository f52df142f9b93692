"""Learning: is it learning, and is what it has learnt safe?"""

from grafana_foundation_sdk.models import dashboard

from ops.grafana.boards import Json
from ops.grafana.expressions import RUNS, per_run, ratio
from ops.grafana.layout import Row, board
from ops.grafana.panels import BAD, WARNING, Query, lines, number

_CHANCE_NOTE = "Chance is 1 / classes."


def learning_board() -> Json:
    """The dashboard."""
    return board(
        "Learning",
        "Is it learning, has it collapsed, and is what it has learnt safe?",
        [
            Row("Now", _now()),
            Row("The task", _task()),
            Row("The representation", _representation()),
            Row("The update", _update()),
            Row("Checkpoints", _checkpoints()),
        ],
        ranks=False,
    )


def _logged(metric: str, *selectors: str) -> str:
    """A number of the last log line: the same on all ranks, hence their average, also where it is not finite."""
    return per_run(f"{metric}{{{', '.join((RUNS, *selectors))}}}", "avg")


def _health(name: str) -> Query:
    return Query(_logged("diptych_health_value", f'name="{name}"'), f"{{{{run}}}} {name.replace('_', ' ')}")


def _checkpoint(metric: str) -> str:
    """Only rank 0 tells of checkpoints."""
    return per_run(f"{metric}{{{RUNS}}}")


_AGE = f"time() - {_checkpoint('diptych_checkpoint_last_timestamp_seconds')}"


def _now() -> list[dashboard.Panel]:
    return [
        number(
            "Epoch",
            "Passes over the data so far.",
            "none",
            Query(_logged("diptych_train_epoch"), "{{run}}"),
            decimals=2,
        ),
        number(
            "Loss",
            "NT-Xent of the last logged global batch. Without learning: the logarithm of the number of candidates.",
            "suffix: nats",
            Query(_logged("diptych_train_loss_nats"), "{{run}}"),
            decimals=3,
        ),
        number(
            "Probe",
            f"Share of views that a linear classifier, trained beside the encoder, named. {_CHANCE_NOTE}",
            "percentunit",
            Query(_logged("diptych_probe_top1_ratio"), "{{run}}"),
            decimals=1,
        ),
        number(
            "Left-out batches",
            "Batches that taught nothing because a loss or gradient was not finite. More than a few: look at the "
            "files in RUN/non_finite.",
            "none",
            Query(_logged("diptych_train_left_out_batches"), "{{run}}"),
            limits={1: WARNING, 5: BAD},
            alerts=["DiptychBatchLeftOut"],
        ),
        number(
            "Overflows",
            "Updates that fp16's overflow prevented since the process began. A few at the start are how the scale is "
            "found.",
            "none",
            Query(_logged("diptych_train_skipped_steps"), "{{run}}"),
            limits={20: WARNING, 200: BAD},
            alerts=["DiptychOverflowStorm"],
        ),
        number(
            "Lost by a crash now",
            "Age of the last complete checkpoint: what would have to be done again.",
            "s",
            Query(_AGE, "{{run}}"),
            limits={3600: WARNING, 10800: BAD},
            decimals=0,
        ),
    ]


def _task() -> list[dashboard.Panel]:
    return [
        lines(
            "Loss",
            "Should fall steeply at first and slowly later. Level from the start: collapsed, or the learning rate is "
            "wrong. Only runs of equal global batch and temperature compare.",
            "suffix: nats",
            [Query(_logged("diptych_train_loss_nats"), "{{run}}")],
            alerts=["DiptychLossNotFinite", "DiptychNotLearning"],
        ),
        lines(
            "Accuracies",
            "Probe: linear classifier on h, before it learns from the batch. Contrastive: share of anchors whose "
            f"positive is nearer than every negative. {_CHANCE_NOTE}",
            "percentunit",
            [
                Query(_logged("diptych_probe_top1_ratio"), "{{run}} probe"),
                Query(_logged("diptych_health_value", 'name="contrastive_top1"'), "{{run}} contrastive"),
            ],
            span=(0, 1),
        ),
        lines(
            "Learning rate",
            "A function of the step: linear warm-up, then cosine. A jump means that the run went on with another "
            "configuration.",
            "none",
            [Query(_logged("diptych_train_learning_rate"), "{{run}}")],
            span=(0, None),
        ),
    ]


def _representation() -> list[dashboard.Panel]:
    return [
        lines(
            "Alignment and uniformity",
            "Mean squared distance of positives, and logarithm of the mean Gaussian potential of all pairs: both "
            "should be low. Both at 0: collapsed.",
            "none",
            [_health("alignment"), _health("uniformity")],
            width=6,
        ),
        lines(
            "Similarities",
            "Mean cosine of positive and of negative pairs. They should part; both near 1: collapsed.",
            "none",
            [_health("positive_similarity"), _health("negative_similarity")],
            width=6,
            alerts=["DiptychCollapse"],
        ),
        lines(
            "Effective rank",
            "RankMe of z: how many dimensions are in use. Near 1: collapsed.",
            "none",
            [_health("effective_rank")],
            width=6,
            span=(0, None),
            alerts=["DiptychCollapse"],
        ),
        lines(
            "Spread of features",
            "Standard deviation of normalised h per dimension, times the root of their number. 1: spread evenly; 0: "
            "collapsed.",
            "none",
            [_health("feature_std")],
            width=6,
            span=(0, None),
            alerts=["DiptychCollapse"],
        ),
    ]


def _update() -> list[dashboard.Panel]:
    return [
        lines(
            "Gradient norm",
            "Of the last logged update, over all parameters and ranks. Spikes come before a loss that is not finite.",
            "none",
            [Query(_logged("diptych_train_gradient_norm"), "{{run}}")],
            width=6,
            span=(0, None),
        ),
        lines(
            "Largest trust ratio",
            "Of LARS: how much larger a layer's step may be than its gradient says. One that grows without end: a "
            "layer whose gradient vanishes.",
            "none",
            [Query(_logged("diptych_train_largest_trust_ratio"), "{{run}}")],
            width=6,
            span=(0, None),
        ),
        lines(
            "Temperature",
            "Of the loss.",
            "none",
            [Query(_logged("diptych_train_temperature"), "{{run}}")],
            width=6,
            span=(0, None),
        ),
        lines(
            "Updates without effect",
            "Batches left out by non_finite.policy, and updates that fp16's overflow prevented; both only grow.",
            "none",
            [
                Query(_logged("diptych_train_left_out_batches"), "{{run}} left out"),
                Query(_logged("diptych_train_skipped_steps"), "{{run}} overflows"),
            ],
            width=6,
            span=(0, None),
        ),
    ]


def _checkpoints() -> list[dashboard.Panel]:
    return [
        lines(
            "Age of the last checkpoint",
            "A saw, whose teeth are as high as checkpoints are apart. A line that only climbs: they fail.",
            "s",
            [Query(_AGE, "{{run}}")],
            width=6,
            span=(0, None),
            alerts=["DiptychCheckpointOld"],
        ),
        lines(
            "Size",
            "Tensors of the last complete checkpoint: model, optimizer and probe.",
            "bytes",
            [Query(_checkpoint("diptych_checkpoint_size_bytes"), "{{run}}")],
            width=6,
            span=(0, None),
        ),
        lines(
            "Time of a write",
            "Mean of the process so far, in the background thread. Training waits only where one write meets the next.",
            "s",
            [
                Query(
                    ratio(
                        _checkpoint("diptych_checkpoint_write_seconds_sum"),
                        _checkpoint("diptych_checkpoint_write_seconds_count"),
                    ),
                    "{{run}}",
                )
            ],
            width=6,
            span=(0, None),
        ),
        lines(
            "Failures",
            "Checkpoints that could not be written since the process began, and 1 while the last attempt failed. "
            "checkpoint.max_failures in a row end the run.",
            "none",
            [
                Query(_checkpoint("diptych_checkpoint_failures_total"), "{{run}} failures"),
                Query(_checkpoint("diptych_checkpoint_failing"), "{{run}} failing now"),
            ],
            width=6,
            span=(0, None),
            limits={1: BAD},
            alerts=["DiptychCheckpointFailing"],
        ),
    ]
