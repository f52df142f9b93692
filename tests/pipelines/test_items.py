"""A list of items in columns is a list of items."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.build.items import SPLITS, Item, Items, picked

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
items = st.builds(
    Item,
    split=st.sampled_from(SPLITS),
    label=st.integers(-1, 2**31 - 1),
    name=names,
    path=st.one_of(st.just(""), names, names.map(lambda name: f"/data/{name}")),
    offset=st.integers(0, 2**50),
    size=st.integers(0, 2**40),
    height=st.integers(0, 2**32 - 1),
    width=st.integers(0, 2**32 - 1),
    crc32=st.integers(-1, 2**32 - 1),
)


@given(st.lists(items, max_size=8))
def test_items_come_back_as_they_went_in(expected: list[Item]) -> None:
    found = Items(expected)
    assert list(found) == expected
    assert found[1:] == expected[1:]
    assert found[::-1] == expected[::-1]
    assert list(pickle.loads(pickle.dumps(found))) == expected
    assert list(picked(found, np.arange(len(expected))[::-1])) == expected[::-1]
    assert found.sizes.tolist() == [item.size for item in expected]
    assert found.name_bytes.tolist() == [len(item.name.encode()) for item in expected]
    assert set(found.splits) == {item.split for item in expected}
    for split in SPLITS:
        assert [found[row] for row in found.rows_of(split)] == [item for item in expected if item.split == split]


def test_a_name_of_any_bytes_survives() -> None:
    name = b"caf\xe9/\xff.jpg".decode("utf-8", "surrogateescape")
    (item,) = Items([Item("train", 0, name, f"/data/{name}", 0, 1)])
    assert (item.name, item.path) == (name, f"/data/{name}")


def test_positions_outside_are_refused_as_by_a_list() -> None:
    found = Items([Item("train", 0, "a", "/a", 0, 1)])
    assert found[-1] == found[0]
    for position in (1, -2):
        with pytest.raises(IndexError):
            found[position]


@given(st.lists(items, min_size=2, max_size=4, unique_by=lambda item: (item.name, item.label, item.size)))
def test_the_digest_is_of_identity_and_order_but_not_of_place(given_items: list[Item]) -> None:
    rows = np.arange(len(given_items))
    digest = Items(given_items).digest(rows)
    moved = [Item(i.split, i.label, i.name, "/elsewhere", 7, i.size, i.height, i.width, i.crc32) for i in given_items]
    assert Items(moved).digest(rows) == digest
    assert Items(given_items).digest(rows[::-1]) != digest
    assert Items(given_items[:-1]).digest(rows[:-1]) != digest


def test_an_item_costs_some_hundred_bytes() -> None:
    count = 20_000
    tracemalloc.start()
    listed = Items(
        Item("train", n % 1000, f"train/n01440764/n01440764_{n}.JPEG", f"/raw/train/n01440764/n01440764_{n}.JPEG", 0, n)
        for n in range(count)
    )
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / count < 110
    assert listed[7].path == "/raw/train/n01440764/n01440764_7.JPEG"
