"""Merkle trees against RFC 6962: its definition, written down again, and the vectors of Certificate Transparency."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowline.records.audit_log.merkle import inclusion_proof, leaf_hash, node_hash, root_by_proof, tree_root

VECTORS = (  # of Certificate Transparency's own tests: leaves in hex, and the root of all up to this one
    ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
    ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
    ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
    ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
    ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
    ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
    ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
    ("606162636465666768696a6b6c6d6e6f", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
)
leaves = st.lists(st.binary(max_size=8), max_size=20)
some_leaves = st.lists(st.binary(max_size=8), min_size=1, max_size=20)


def by_definition(data: Sequence[bytes]) -> bytes:
    """MTH of section 2.1, word by word."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    k = 1
    while 2 * k < len(data):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(data[:k]) + by_definition(data[k:])).digest()


def test_the_vectors_of_certificate_transparency() -> None:
    data = [bytes.fromhex(leaf) for leaf, _ in VECTORS]
    assert [tree_root(data[: count + 1]).hex() for count in range(len(data))] == [root for _, root in VECTORS]
    assert tree_root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(leaves)
def test_any_root_is_the_one_of_the_definition(data: list[bytes]) -> None:
    assert tree_root(data) == by_definition(data)


@given(some_leaves, st.data())
def test_a_leaf_that_is_changed_removed_added_or_swapped_changes_the_root(
    data: list[bytes], draw: st.DataObject
) -> None:
    place = draw.draw(st.integers(0, len(data) - 1))
    other = draw.draw(st.integers(0, len(data) - 1))
    swapped = data.copy()
    swapped[place], swapped[other] = data[other], data[place]
    variants = [
        [*data[:place], data[place] + b"x", *data[place + 1 :]],
        data[:place] + data[place + 1 :],
        [*data[:place], b"new", *data[place:]],
        swapped,
    ]
    for variant in variants:
        assert (tree_root(variant) == tree_root(data)) == (variant == data)


@given(some_leaves, st.data())
def test_every_leaf_has_a_proof_and_no_other_leaf_or_place_has_it(data: list[bytes], draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, len(data) - 1))
    proof = inclusion_proof(data, index)
    assert root_by_proof(data[index], index, len(data), proof) == tree_root(data)
    assert root_by_proof(data[index] + b"x", index, len(data), proof) != tree_root(data)
    for wrong in ((*proof, b""), proof[:-1] if proof else (b"",)):
        with pytest.raises(ValueError, match="inclusion proof"):
            root_by_proof(data[index], index, len(data), wrong)


def test_an_inner_node_is_no_leaf() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert tree_root([b"a", b"b"]) == node_hash(left, right) != leaf_hash(left + right)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_place_outside_of_the_tree_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match="has 3 leaves"):
        inclusion_proof([b"a", b"b", b"c"], index)
    with pytest.raises(ValueError, match="has 3 leaves"):
        root_by_proof(b"a", index, 3, ())
