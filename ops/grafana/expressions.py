"""PromQL that several dashboards ask."""

RUNS = 'run=~"$run"'
RANKS = 'run=~"$run", node=~"$node", rank=~"$rank"'
"""Selectors by the template variables of the same names."""

STAGE_SECONDS = "diptych_train_stage_seconds_total"
STEPS = "diptych_train_steps_total"
WAITING = 'stage=~"agree|gather|all_reduce"'
"""Stages in which a rank waits for others; a rank that waits least is the one that others wait for."""
WORKING = 'stage!~"agree|gather|all_reduce"'
UPDATE = 'stage=~"forward|gather|loss|backward|all_reduce|optimizer"'


def rate(metric: str, *selectors: str) -> str:
    """Growth of a counter per second."""
    return f"rate({metric}{{{', '.join(selectors)}}}[$__rate_interval])"


def ratio(above: str, below: str) -> str:
    """One by the other, each an aggregation: series of the same labels meet."""
    return f"{above} / {below}"


def per_run(expression: str, function: str = "sum") -> str:
    """Of all ranks of a run."""
    return f"{function} by (run) ({expression})"


def per_rank(expression: str) -> str:
    """Of one rank, whatever else tells its series apart."""
    return f"sum by (run, node, rank) ({expression})"


def seconds_per_step(by: str, selector: str) -> str:
    """Seconds that a rank spends in an average step, by run and whatever else `by` names."""
    return (
        f"sum by (run, {by}) ({rate(STAGE_SECONDS, selector)})"
        f" / on (run) group_left () sum by (run) ({rate(STEPS, RUNS)})"
    )


def rank_seconds_per_step(*stages: str) -> str:
    """Seconds of some stages in a step of each rank."""
    return ratio(per_rank(rate(STAGE_SECONDS, RANKS, *stages)), per_rank(rate(STEPS, RANKS)))


def share_of_step(by: str, seconds: str) -> str:
    """Share of a run's time; `seconds` is a rate of STAGE_SECONDS."""
    return f"sum by (run, {by}) ({seconds}) / on (run) group_left () sum by (run) ({rate(STAGE_SECONDS, RUNS)})"


def bound(images: str, seconds: str) -> str:
    """Images per second of a run that did nothing else: its slowest rank's images by these seconds, times its ranks.

    Ranks go in step, so that the slowest decides for all.
    """
    alone = ratio(per_rank(images), per_rank(seconds))
    return f"min by (run) ({alone}) * count by (run) ({alone})"


def relabelled(expression: str, label: str, source: str, values: dict[str, str]) -> str:
    """Give series a label by another one's value: `values` has regular expressions of the latter."""
    for pattern, value in values.items():
        expression = f'label_replace({expression}, "{label}", "{value}", "{source}", "{pattern}")'
    return expression
