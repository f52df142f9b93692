import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.order import SampleOrder, epoch_order, rank_positions, steps_per_epoch

shard_counts = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(shard_counts, st.integers(1, 15), st.integers(0, 2**64 - 1), st.integers(0, 10_000))
def test_an_epoch_covers_every_sample_once(counts: list[int], window: int, seed: int, epoch: int) -> None:
    order = epoch_order(np.array(counts), window, seed, epoch)
    assert sorted(order.tolist()) == list(range(sum(counts)))


@given(shard_counts, st.integers(1, 15), st.integers(0, 1000))
def test_the_order_is_a_pure_function_that_changes_with_seed_and_epoch(
    counts: list[int], window: int, seed: int
) -> None:
    sizes = np.array([*counts, 50])
    order = epoch_order(sizes, window, seed, 3)
    assert (order == epoch_order(sizes, window, seed, 3)).all()
    assert (order != epoch_order(sizes, window, seed, 4)).any()
    assert (order != epoch_order(sizes, window, seed + 1, 3)).any()


@given(shard_counts, st.integers(1, 15), st.integers(0, 1000))
def test_a_window_of_the_order_touches_only_its_shards(counts: list[int], window: int, seed: int) -> None:
    shard_of = np.repeat(np.arange(len(counts)), counts)
    shards_in_order = shard_of[epoch_order(np.array(counts), window, seed, 0)]
    last_seen = {int(shard): i for i, shard in enumerate(shards_in_order)}
    first_seen = {int(shard): i for i, shard in reversed(list(enumerate(shards_in_order)))}
    for position in range(len(shards_in_order)):
        open_now = [shard for shard in first_seen if first_seen[shard] <= position <= last_seen[shard]]
        assert len(open_now) <= window


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_every_world_size_sees_the_same_global_batches(world_size: int) -> None:
    parts = [rank_positions(16, rank, world_size) for rank in range(world_size)]
    assert np.concatenate(parts).tolist() == list(range(16))
    assert {len(part) for part in parts} == {16 // world_size}


@given(st.integers(1, 500), st.integers(2, 64))
def test_the_dropped_tail_is_smaller_than_a_global_batch(samples: int, global_batch: int) -> None:
    assert 0 <= samples - steps_per_epoch(samples, global_batch) * global_batch < global_batch


def test_the_dropped_tail_differs_by_epoch() -> None:
    tails = {tuple(sorted(epoch_order(np.array([50, 50]), 2, 0, epoch)[96:].tolist())) for epoch in range(5)}
    assert len(tails) == 5


@given(st.integers(20, 200), st.integers(2, 20), st.data())
def test_replacements_lie_outside_the_batch_and_no_two_positions_share_one(
    samples: int, global_batch: int, data: st.DataObject
) -> None:
    order = SampleOrder(np.array([samples]), window_shards=1, global_batch=global_batch, seed=0)
    batch = order.batch(data.draw(st.integers(0, 2 * steps_per_epoch(samples, global_batch) - 1)))
    candidates: list[int] = []
    for position in range(global_batch):
        attempt = 0
        while (sample := batch.replacement(position, attempt)) is not None:
            candidates.append(sample)
            attempt += 1
    assert len(candidates) == len(set(candidates)) == samples - global_batch
    assert not set(batch.ids(0, 1).tolist()) & set(candidates)


@given(
    shard_counts,
    st.integers(1, 15),
    st.integers(0, 2**64 - 1),
    st.integers(0, 5),
    st.integers(1, 4),
    st.sampled_from([1, 2, 3, 4, 6]),
    st.data(),
)
def test_an_epoch_is_the_same_samples_at_most_once_for_every_world_size_and_every_start(
    counts: list[int], window: int, seed: int, epoch: int, per_rank: int, world_size: int, data: st.DataObject
) -> None:
    sizes, global_batch = np.array([*counts, 24]), per_rank * world_size
    steps = steps_per_epoch(int(sizes.sum()), global_batch)

    def ids_from(first_step: int, ranks: int) -> list[list[int]]:
        order = SampleOrder(sizes, window_shards=window, global_batch=global_batch, seed=seed)
        steps_left = range(first_step, (epoch + 1) * steps)
        return [[i for r in range(ranks) for i in order.batch(step).ids(r, ranks).tolist()] for step in steps_left]

    alone = ids_from(epoch * steps, 1)
    seen = [sample for batch in alone for sample in batch]
    assert len(seen) == len(set(seen)) > sizes.sum() - global_batch
    assert ids_from(epoch * steps, world_size) == alone
    start = data.draw(st.integers(0, steps - 1))
    assert ids_from(epoch * steps + start, world_size) == alone[start:]
