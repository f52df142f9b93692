"""All ranks run the same program on the same configuration and data, or one line says which of them do not."""

import hashlib
import json
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.manifest import SplitIndex
from train.config import PretrainConfig, flatten
from train.ranks import OtherRankError, Ranks

_ROOT = Path(__file__).resolve().parents[1]
_OURS = ("pipelines", "model", "train")
_LIBRARIES = ("torch", "accelerate", "timm", "kornia", "nvidia-dali-cuda130")
_OF_EACH_NODE = ("run_dir", "data.dir", "data.cache_dir", "data.decode_threads", "data.fetch_threads", "cpu_threads")
"""Fields in which ranks may differ."""


def refuse_differing_ranks(config: PretrainConfig, split: SplitIndex, ranks: Ranks) -> None:
    """Compare all ranks with rank 0.

    Raises:
        OtherRankError: names what differs, and the ranks; all ranks raise it.
    """
    if ranks.world_size == 1:
        return
    first, *others = (json.loads(text) for text in ranks.texts(json.dumps(_identity(config, split))))
    for name, value in first.items():
        differing = {number: other.get(name) for number, other in enumerate(others, 1) if other.get(name) != value}
        if differing:
            rank, theirs = next(iter(differing.items()))
            who = ", ".join(map(str, differing))
            raise OtherRankError(
                f"{name} differs: {value} on rank 0, {theirs} on rank {rank} (differing ranks: {who}); start all "
                "ranks with the same program, configuration and data"
            )


def _identity(config: PretrainConfig, split: SplitIndex) -> dict[str, Any]:
    fields = {name: value for name, value in flatten(asdict(config)).items() if name not in _OF_EACH_NODE}
    return {
        "the code of Diptych": source_sha256()[:12],
        **{f"the version of {name}": _version(name) for name in _LIBRARIES},
        "the data manifest": split.manifest.fingerprint[:12],
        **fields,
    }


@cache
def source_sha256() -> str:
    """Hash of the source files that make an update."""
    digest = hashlib.sha256()
    for folder in _OURS:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
