"""Merkle trees as RFC 6962, section 2.1, defines them (https://www.rfc-editor.org/rfc/rfc6962#section-2.1).

    tree = Tree()
    tree.add(b"first"); tree.add(b"second")
    tree.root()                                        # 32 bytes
    proof = inclusion_proof(leaves, 1)                 # the hashes beside the way from leaf 1 to the root
    root_by_proof(leaves[1], 1, len(leaves), proof)    # the root that leaf and proof lead to

Leaves are hashed after a byte 0, inner nodes after a byte 1, so that no inner node can be passed off as a leaf. A tree
of n > 1 leaves splits at the largest power of two below n; the root of no leaves is the sha256 of nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(leaf: bytes) -> bytes:
    return hashlib.sha256(_LEAF + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


class Tree:
    """Leaves are added one after the other; memory grows with the logarithm of their number."""

    def __init__(self) -> None:
        self.num_leaves = 0
        self._complete: list[bytes] = []  # roots of complete subtrees, the largest first: one per bit of num_leaves

    def add(self, leaf: bytes) -> None:
        digest, number = leaf_hash(leaf), self.num_leaves
        while number & 1:
            digest = node_hash(self._complete.pop(), digest)
            number >>= 1
        self._complete.append(digest)
        self.num_leaves += 1

    def root(self) -> bytes:
        if not self._complete:
            return hashlib.sha256().digest()
        digest = self._complete[-1]
        for left in reversed(self._complete[:-1]):
            digest = node_hash(left, digest)
        return digest


def tree_root(leaves: Sequence[bytes]) -> bytes:
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """PATH(m, D[n]) of section 2.1.1, from the leaf upwards. Raises IndexError for a leaf that is not in the tree."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index}: the tree has {len(leaves)} leaves")
    if len(leaves) == 1:
        return ()
    split = _split(len(leaves))
    if index < split:
        return (*inclusion_proof(leaves[:split], index), tree_root(leaves[split:]))
    return (*inclusion_proof(leaves[split:], index - split), tree_root(leaves[:split]))


def root_by_proof(leaf: bytes, index: int, num_leaves: int, proof: Sequence[bytes]) -> bytes:
    """The root to which the leaf at `index` of `num_leaves` leads along the proof.

    Raises ValueError for a proof of the wrong length, or an index outside of the tree.
    """
    if not 0 <= index < num_leaves:
        raise ValueError(f"leaf {index}: the tree has {num_leaves} leaves")
    if num_leaves == 1:
        if proof:
            raise ValueError(f"inclusion proof: {len(proof)} hashes too many")
        return leaf_hash(leaf)
    if not proof:
        raise ValueError("inclusion proof: hashes are missing")
    split = _split(num_leaves)
    if index < split:
        return node_hash(root_by_proof(leaf, index, split, proof[:-1]), proof[-1])
    return node_hash(proof[-1], root_by_proof(leaf, index - split, num_leaves - split, proof[:-1]))


def _split(num_leaves: int) -> int:
    """The largest power of two below the number of leaves, which is at least 2."""
    split: int = 1 << (num_leaves - 1).bit_length() - 1
    return split
