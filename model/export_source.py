"""What is exported: an encoder, the configuration of its run and the scores that were measured of it, as far as there.

Nothing here imports torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.description import DAMAGE, EncoderDescription, find_encoder, parse_description
from model.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class ReportedScore:
    """One score of an evaluation, with what it takes to judge it; shares are in [0, 1]."""

    protocol: str
    variant: str
    representation: str
    """encoder; or a control: random_init, raw_pixels; h and z of probes."""
    metric: str
    """top1 or mean_per_class."""
    value: float
    interval: tuple[float, float]
    """95 % bootstrap over test images."""
    chance: float
    n_train: int
    n_test: int
    data_name: str
    data_fingerprint: str
    split: str


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """An encoder's files, read but for the weights."""

    directory: Path
    """Of encoder.json and model.safetensors."""
    description: EncoderDescription
    weights_sha256: str
    config: dict[str, Any]
    """Resolved configuration of the run; empty for an encoder alone."""
    scores: tuple[ReportedScore, ...]
    """Of these weights; controls among them."""
    why_no_scores: str
    """One line; empty where there are some."""


def read_source(directory: Path) -> ExportSource:
    """Read what lies about an encoder.

    Args:
        directory: a run's, or an encoder's.

    Raises:
        ModelError: the encoder's description, the configuration or the results cannot be read.
    """
    encoder_dir = find_encoder(directory)
    description, digest = parse_description(encoder_dir)
    run_dir = encoder_dir.parent if encoder_dir.name == "encoder" else encoder_dir
    results = (run_dir if (run_dir / "config.yaml").is_file() else encoder_dir) / "eval" / "results.json"
    scores, why_none = _read_scores(results, digest)
    return ExportSource(
        directory=encoder_dir,
        description=description,
        weights_sha256=digest,
        config=_read_config(run_dir / "config.yaml"),
        scores=scores,
        why_no_scores=why_none,
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not the configuration of a run")
    return config


def _read_scores(path: Path, weights_sha256: str) -> tuple[tuple[ReportedScore, ...], str]:
    """The scores of these weights, or none and why."""
    evaluate = "`python -m eval.evaluate` measures some"
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError:
        return (), f"no {path}; {evaluate}"
    except DAMAGE as error:
        raise ModelError(f"{path}: cannot be read ({error}); remove it, or evaluate the encoder again") from None
    if not isinstance(results, dict) or (results.get("format"), results.get("version")) != ("diptych-evaluation", 1):
        return (), f"{path} is of another version; {evaluate} anew"
    try:
        if results["encoder"]["weights_sha256"] != weights_sha256:
            return (), f"{path} is of other weights; {evaluate} of these"
        scores = tuple(_score(entry, results["data"][entry["data"]]) for entry in results["scores"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: malformed ({type(error).__name__}: {error}); remove it, or evaluate the encoder again"
        ) from None
    return scores, "" if scores else f"{path} holds none; {evaluate}"


def _score(entry: dict[str, Any], data: dict[str, Any]) -> ReportedScore:
    low, high = entry["interval"]
    return ReportedScore(
        **{name: str(entry[name]) for name in ("protocol", "variant", "representation", "metric")},
        value=float(entry["value"]),
        interval=(float(low), float(high)),
        chance=float(entry["chance"]),
        n_train=int(entry["n_train"]),
        n_test=int(entry["n_test"]),
        data_name=str(data["name"]),
        data_fingerprint=str(data["fingerprint"]),
        split=str(data["split"]),
    )
