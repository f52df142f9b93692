"""Is the data there, and are its bytes those that the manifest describes?"""

from contextlib import closing
from dataclasses import replace

import numpy as np

from ops.doctor.config import DoctorConfig
from ops.doctor.finding import Finding, doubtful, fine, wrong
from pipelines.errors import DataError
from pipelines.manifest import SplitIndex
from pipelines.order import IdArray
from pipelines.store import Store
from train.distributed import environment_rank
from train.errors import RunError
from train.pretrain import open_data

_SAMPLED = 64


def open_or_say(config: DoctorConfig) -> tuple[SplitIndex | None, list[Finding]]:
    """Manifest, index, sizes of local shards; and the checksums of some samples of as many shards as may be.

    Returns:
        The train split, None where it cannot be opened, and what is to be said.
    """
    try:
        split = open_data(config, world_size=1)  # whether the ranks can share the batch is told elsewhere
        found = f"{split.location}: {len(split):,} samples, shards: {len(split.shards)}, {split.manifest.name}"
        return split, [fine("data", found), check_samples(split, config, environment_rank())]
    except (DataError, RunError) as error:
        return None, [wrong("data", str(error))]


def check_samples(split: SplitIndex, config: DoctorConfig, rank: int) -> Finding:
    """Read some samples, remote ones by range so that nothing is copied; each rank takes others."""
    ids = sample_ids(split, _SAMPLED, rank)
    with closing(Store(split, replace(config.data, remote="ranges"))) as store:
        reasons = store.read(ids).reasons
        told = "; ".join(f"{store.describe(int(ids[place]))}: {reason}" for place, reason in list(reasons.items())[:3])
    if not reasons:
        shards = len(set(split.samples["shard"][ids].tolist()))
        return fine("data", f"{len(ids)} samples from {shards} of the shards have the checksums that the index says")
    what = f"{len(reasons)} of {len(ids)} sampled are bad: {told}; restore the shards, or `build_shards verify` them"
    bad_share = len(reasons) / len(ids)
    return (doubtful if bad_share <= config.data.bad_sample_budget else wrong)("data", what)


def sample_ids(split: SplitIndex, count: int, rank: int) -> IdArray:
    """(n,) ids spread evenly over the split, n at most `count`, others for each of many ranks."""
    count = min(count, len(split))
    stride = len(split) / count
    return ((np.arange(count) + (rank * 0.618034) % 1) * stride).astype(np.int64)
