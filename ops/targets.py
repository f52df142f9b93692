"""How Prometheus finds the ranks of a run: each writes a file of file-based service discovery (file_sd)."""

import contextlib
import ipaddress
import json
import logging
import platform
from pathlib import Path

from train.config import MetricsConfig, PretrainConfig
from train.ranks import Ranks

logger = logging.getLogger(__name__)


def write_target(config: PretrainConfig, ranks: Ranks, port: int) -> None:
    """Tell Prometheus of this rank, and have it forget ranks that the run no longer has.

    A directory that cannot be written is a warning: training is worth more than watching it.

    Args:
        config: of the run.
        ranks: this one among them.
        port: that it listens on.
    """
    path = target_file(config, ranks.rank)
    labels = {"run": Path(config.run_dir).resolve().name, "rank": str(ranks.rank), "node": platform.node()}
    if config.metrics.tls_certificate:
        labels["__scheme__"] = "https"
    partial = path.with_suffix(".partial")  # which no pattern of Prometheus's reads
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps([{"targets": [f"{_host(config.metrics)}:{port}"], "labels": labels}]) + "\n")
        partial.replace(path)
        if ranks.rank == 0:
            _remove_beyond(config, ranks.world_size)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        logger.warning("%s cannot be written (%s): Prometheus does not learn of this rank by it", path, error.strerror)


def remove_target(config: PretrainConfig, rank: int) -> None:
    """Have Prometheus forget a rank."""
    path = target_file(config, rank)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed (%s): Prometheus will say that this rank is dead", path, error.strerror)


def target_file(config: PretrainConfig, rank: int) -> Path:
    """Where a rank is told of: TARGETS/RUN-rank-R.json."""
    run_dir = Path(config.run_dir).resolve()
    named = config.metrics.targets_dir
    directory = Path(named) if named else run_dir.parent / "prometheus-targets"
    return directory / f"{run_dir.name}-rank-{rank}.json"


def _remove_beyond(config: PretrainConfig, world_size: int) -> None:
    """Of a run that had more ranks and did not end in an orderly way."""
    rank = world_size
    while (path := target_file(config, rank)).exists():
        path.unlink()
        rank += 1


def _host(config: MetricsConfig) -> str:
    """Under which Prometheus reaches this node; IPv6 addresses in brackets."""
    host = config.advertised_host or config.address
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return platform.node()
    return f"[{host}]" if address.version == 6 else host
