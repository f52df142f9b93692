import numpy as np

from pipelines.hashing import hash64, uniform


def test_the_hash_never_changes() -> None:
    """Old runs resume with the same order and views only if these numbers stay."""
    assert hash64(1, 2, 3).item() == 0x558194CB6FE3BC54
    assert hash64(2**64 - 1, 0).item() == 0x57E51C9E505DC965


def test_a_hash_does_not_depend_on_the_shape_in_which_it_is_computed() -> None:
    ids, draws = np.arange(50)[:, None], np.arange(7)
    table = hash64(9, ids, draws)
    assert table.shape == (50, 7)
    assert all(table[i, j] == hash64(9, i, j) for i in (0, 3, 49) for j in (0, 6))


def test_neighbouring_counters_give_uniform_and_uncorrelated_numbers() -> None:
    u = uniform(hash64(3, np.arange(200)[:, None], np.arange(1000)))  # 200 streams of 1000
    counts, _ = np.histogram(u, bins=100, range=(0, 1))
    chi_square = ((counts - u.size / 100) ** 2 / (u.size / 100)).sum()
    assert 50 < chi_square < 160  # 99 degrees of freedom: beyond either end less often than 1 in 10,000
    assert abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 0.01


def test_the_order_of_words_matters() -> None:
    assert hash64(1, 2) != hash64(2, 1)
    assert hash64(0) != hash64(0, 0)
