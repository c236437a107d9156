"""The algebra of named axes: what is one axis, what are its parts, and what cannot be said."""

from __future__ import annotations

import pytest
import torch

from lessen.surgery.coupling.axes import (
    ONE,
    Atom,
    Axis,
    Product,
    Sum,
    atoms,
    concatenation,
    cut,
    pin,
    product,
    reshape,
    resolve,
    unify,
)
from lessen.surgery.coupling.formula import formula, kept_indices, owners, size


def same(one: Axis, other: Axis) -> bool:
    return resolve(one) == resolve(other)


def pinned(axis: Axis) -> bool:
    return all(atom.pinned for atom in atoms(axis))


def test_atoms_that_are_unified_are_one_and_keep_a_reason() -> None:
    a, b, c = Atom(8), Atom(8, "the output"), Atom(8)
    unify(a, c)
    unify(b, c)
    assert same(a, b)
    assert [atom.pinned for atom in atoms(a)] == ["the output"]
    assert not same(a, Atom(8))


def test_a_reshape_factors_an_axis_wherever_it_stands() -> None:
    width, batch = Atom(12), Atom(2)
    weight = width  # the same axis stands in a parameter
    _, heads, inner = reshape([batch, width], [2, 3, 4])
    assert same(weight, product((heads, inner)))
    assert [heads.size, inner.size] == [3, 4]


def test_a_reshape_merges_and_splits_back() -> None:
    a, b = Atom(6), Atom(4)
    (merged,) = reshape([a, b], [24])
    assert same(merged, product((a, b)))
    again = reshape([merged], [6, 4])
    assert same(again[0], a)
    assert same(again[1], b)
    first, second, third = reshape([merged], [2, 3, 4])
    assert same(a, product((first, second)))
    assert same(third, b)


def test_a_reshape_across_parts_pins_them() -> None:
    a, b = Atom(6), Atom(4)
    made = reshape([a, b], [8, 3])
    assert pinned(a)
    assert pinned(b)
    assert all(pinned(axis) for axis in made)


def test_axes_of_size_one_come_and_go() -> None:
    a = Atom(6)
    made = reshape([ONE, a], [1, 1, 6, 1])
    assert same(made[2], a)
    assert [axis.size for axis in made] == [1, 1, 6, 1]


def test_a_concatenation_gives_parts_and_cutting_gives_them_back() -> None:
    a, b = Atom(3), Atom(5)
    whole = Atom(8)
    unify(whole, concatenation((a, b)))
    one, other = cut(whole, [3, 5])
    assert same(one, a)
    assert same(other, b)


def test_a_cut_refines_an_atom() -> None:
    whole = Atom(8)
    one, other = cut(whole, [4, 4])
    unify(one, other)
    assert same(whole, product((Atom(1), concatenation((one, one)))))
    assert len(set(atoms(whole))) == 1  # both halves lose the same indices


def test_concatenations_cut_at_different_places_get_common_parts() -> None:
    a, b, c, d = Atom(3), Atom(5), Atom(4), Atom(4)
    unify(concatenation((a, b)), concatenation((c, d)))
    assert [atom.size for atom in atoms(concatenation((a, b)))] == [3, 4] or [
        atom.size for atom in atoms(concatenation((a, b)))
    ] == [3, 1, 4]
    assert same(concatenation((a, b)), concatenation((c, d)))


def test_channels_flattened_with_positions_stay_in_blocks() -> None:
    a, b, positions = Atom(2), Atom(3), Atom(49, "positions")
    flat = product((concatenation((a, b)), positions))
    one, other = cut(flat, [2 * 49, 3 * 49])
    assert same(one, product((a, positions)))
    assert same(other, product((b, positions)))


def test_queries_keys_and_values_in_one_axis() -> None:
    whole = Atom(3 * 4 * 5)
    three, heads, width = reshape([whole], [3, 4, 5])
    pin(three, "picked one by one")
    query, key, value = cut(whole, [20, 20, 20])
    assert same(query, key)
    assert same(value, product((heads, width)))
    assert not pinned(heads)


def test_a_cut_inside_a_block_cuts_the_block() -> None:
    outer, inner = Atom(2), Atom(6)
    one, other = cut(product((outer, inner)), [3, 9])
    assert one.size == 3
    assert other.size == 9
    assert [atom.size for atom in atoms(inner)] == [3, 3]
    unify(concatenation((one, other)), product((outer, inner)))  # true already: nothing is pinned
    assert not any(atom.pinned for atom in atoms(inner))


def test_products_that_share_no_factor_are_pinned() -> None:
    a, b, c, d = Atom(2), Atom(3), Atom(3, "fixed"), Atom(2)
    unify(product((a, b)), product((c, d)))
    assert pinned(product((a, b))) or same(product((a, b)), product((c, d)))


def test_formulas_name_what_is_free_and_count_what_is_not() -> None:
    a, b, positions = Atom(2), Atom(3), Atom(4, "positions")
    axis = concatenation((product((a, positions)), b, Atom(5, "fixed"), Atom(1)))
    written = formula(axis, {resolve(a): "a", resolve(b): "b"})  # type: ignore[dict-item]
    assert written == [["a", 4], ["b"], [6]]
    assert size(written, {"a": 2, "b": 3}) == axis.size
    assert size(written, {"a": 1, "b": 3}) == axis.size - 4


def test_kept_indices_are_those_of_a_real_reshape() -> None:
    kept = {"a": [1], "b": [0, 2]}
    sizes = {"a": 2, "b": 3}
    grid = torch.arange(2 * 4 * 3).reshape(2, 4, 3)
    wanted = grid[[1]][:, :, [0, 2]].flatten()
    assert torch.equal(kept_indices([["a", 4, "b"]], sizes, kept), wanted)
    assert not torch.equal(kept_indices([["b", 4, "a"]], sizes, kept), wanted)


def test_owners_say_which_index_falls_with_which() -> None:
    assert owners([["a", 2], [1], ["b"]], {"a": 2, "b": 2}, "a").tolist() == [0, 0, 1, 1, -1, -1, -1]
    assert owners([[3, [["a"], ["b"]]]], {"a": 1, "b": 2}, "b").tolist() == [-1, 0, 1] * 3


def test_the_normal_form_is_unique() -> None:
    a, b, r = Atom(2), Atom(3), Atom(7)
    assert same(Sum((Product((a, r)), Product((b, r)))), Product((Sum((a, b)), r)))
    assert same(Product((Product((a, b)), r)), Product((a, Product((b, r)))))
    assert resolve(Product((ONE, a, Atom(1)))) is a


@pytest.mark.parametrize("sizes", [[24], [4, 6], [2, 12], [2, 2, 6], [8, 3], [3, 8]])
def test_every_reshape_of_one_free_axis_is_expressible(sizes: list[int]) -> None:
    whole = Atom(24)
    made = reshape([whole], sizes)
    assert [axis.size for axis in made] == sizes
    assert not any(atom.pinned for atom in atoms(whole))
    assert same(whole, product(made))
