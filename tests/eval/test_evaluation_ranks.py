import torch
from evaluation_on_ranks import asked_of_rank_0, put_together
from rank_pool import RankPool

from eval.ranks import from_rank_0, gather_rows, part_of


def test_one_rank_has_all_rows() -> None:
    part = part_of(7)
    assert (part.rows, len(part)) == (slice(0, 7), 7)
    rows = torch.arange(7)
    assert gather_rows(rows) is rows
    assert from_rank_0(lambda: "here") == "here"


def test_unequal_parts_are_put_together_in_order(two_ranks: RankPool, four_ranks: RankPool) -> None:
    for pool, size in ((two_ranks, 2), (four_ranks, 4)):
        for count in (1, 2, 7, 8):
            whole = torch.arange(3 * count).view(count, 3)
            for gathered, summed in pool.run(put_together, whole):
                assert torch.equal(gathered, whole)
                assert summed.tolist() == [size * (size + 1) / 2, 10 * size]


def test_what_rank_0_raises_is_raised_everywhere(two_ranks: RankPool) -> None:
    assert two_ranks.run(asked_of_rank_0, False) == ["from rank 0"] * 2
    assert two_ranks.run(asked_of_rank_0, True) == ["refused: nothing there"] * 2
