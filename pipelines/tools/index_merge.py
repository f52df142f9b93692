"""What only all shards together can tell: which labels there are, which are missing, which keys come twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.errors import DataError
from pipelines.hashing import UInt64Array, hash64
from pipelines.manifest import UNLABELLED
from pipelines.tools.index_shard import IndexedShard, IndexFault, unpack_lines

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedSplit:
    """A split of foreign shards, with what of each is good."""

    name: str
    shards: list[IndexedShard]
    kept: list[BoolArray]
    """One per shard: which of its records stay."""

    @property
    def samples(self) -> int:
        """Records that stay."""
        return sum(int(kept.sum()) for kept in self.kept)


def agreed_classes(splits: dict[str, list[IndexedShard]], given: tuple[str, ...]) -> tuple[str, ...]:
    """Class names: those given, or the labels' numbers; none if no sample has a label.

    Raises:
        DataError: names are given, but no sample has a label.
    """
    most = max(
        (int(shard.records["label"].max()) for shards in splits.values() for shard in shards if len(shard.records)),
        default=UNLABELLED,
    )
    if given and most == UNLABELLED:
        raise DataError("--classes is given, but no sample has a label: neither a cls member nor a label in its json")
    return given or tuple(str(label) for label in range(most + 1))


def merge_split(
    name: str, shards: list[IndexedShard], classes: tuple[str, ...], *, unique_in_shard_only: bool
) -> tuple[MergedSplit, list[IndexFault]]:
    """Leave out samples without a label among labelled ones, with an unknown label, or with a key that came before."""
    kept, faults = [np.ones(len(shard.records), dtype=np.bool_) for shard in shards], list[IndexFault]()
    for shard, mask in zip(shards, kept, strict=True):
        label = shard.records["label"]
        if classes:
            missing = "neither a cls member nor a label in its json, unlike other samples"
            faults += _leave_out(shard, mask, label == UNLABELLED, "missing_label", missing)
            unknown = f"not in 0 ... {len(classes) - 1}"
            faults += _leave_out(shard, mask, label >= len(classes), "bad_label", unknown)
    faults += _leave_out_duplicates(shards, kept, unique_in_shard_only=unique_in_shard_only)
    return MergedSplit(name=name, shards=shards, kept=kept), faults


def _leave_out(shard: IndexedShard, mask: BoolArray, bad: BoolArray, reason: str, message: str) -> list[IndexFault]:
    if not bad.any():
        return []
    mask &= ~bad
    keys = unpack_lines(shard.packed_keys)
    labels = shard.records["label"].tolist()
    return [
        IndexFault(
            shard=shard.location,
            key=keys[row],
            reason=reason,
            message=f"label {labels[row]} is {message}" if reason == "bad_label" else message,
        )
        for row in np.flatnonzero(bad).tolist()
    ]


def _leave_out_duplicates(
    shards: Sequence[IndexedShard], kept: Sequence[BoolArray], *, unique_in_shard_only: bool
) -> list[IndexFault]:
    """By the keys' 64-bit hashes: of 10^8 different keys, two are taken for one with a probability of 3 in 10,000."""
    faults = list[IndexFault]()
    first_in_shard = np.cumsum([0] + [len(shard.records) for shard in shards])
    position, first_position = _repeated([shard.key_hashes for shard in shards], apart=unique_in_shard_only)
    number = np.searchsorted(first_in_shard, position, side="right") - 1
    first_number = np.searchsorted(first_in_shard, first_position, side="right") - 1
    for shard_number in np.unique(number).tolist():
        shard, keys = shards[shard_number], unpack_lines(shards[shard_number].packed_keys)
        here = number == shard_number
        rows = position[here] - first_in_shard[shard_number]
        for row, first in zip(rows.tolist(), first_number[here].tolist(), strict=True):
            if not kept[shard_number][row]:
                continue
            kept[shard_number][row] = False
            where = "this shard" if first == shard_number else shards[first].location
            advice = "" if first == shard_number else "; if keys begin anew in every shard: --unique-keys shard"
            message = f"a sample before it, in {where}, has the same key{advice}"
            faults.append(IndexFault(shard=shard.location, key=keys[row], reason="duplicate_key", message=message))
    return faults


def _repeated(hashes: Sequence[UInt64Array], *, apart: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of what came before, in rising order, and where each came first.

    Args:
        hashes: by shard.
        apart: only what comes twice in one shard counts.
    """
    flat = np.concatenate([hash64(part, number) if apart else part for number, part in enumerate(hashes)])
    order = np.argsort(flat, kind="stable")
    new = np.concatenate([[True], flat[order[1:]] != flat[order[:-1]]])[: len(order)]
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    position, first_position = order[~new], first[~new]
    rising = np.argsort(position)
    return position[rising], first_position[rising]
