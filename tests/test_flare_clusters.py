"""The walk on a tree drawn by hand, and the choice of layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from invertune_plugin.defenses.flare.clusters import ClusterConfig, CondensedTree, stable_split
from invertune_plugin.defenses.flare.subspace import Selection, SubspaceConfig, select_subspace
from invertune_plugin.errors import InputError

hdbscan = pytest.importorskip("hdbscan", reason="FLARE's clusters need hdbscan")

ROWS = [
    (10, 9, 0.5, 1),
    (10, 11, 1.0, 6), (10, 12, 1.0, 3),
    (11, 13, 1.5, 3), (11, 14, 1.5, 3),
    (12, 6, 2.0, 1), (12, 7, 2.0, 1), (12, 8, np.inf, 1),
    (13, 0, 4.0, 1), (13, 1, 4.0, 1), (13, 2, 4.0, 1),
    (14, 3, 1.6, 1), (14, 4, 1.6, 1), (14, 5, 1.6, 1),
]  # fmt: skip
"""Ten samples: 9 is noise, 6 to 8 split off first, then 0 to 5 in two halves; 8 is a duplicate."""
KIND = [("parent", "i8"), ("child", "i8"), ("lambda_val", "f8"), ("child_size", "i8")]
TREE = CondensedTree(np.array(ROWS, dtype=KIND))
PUBLISHED = ClusterConfig(min_cluster_size=2, persistence=1.0, least_share=0.0)


def test_a_tree_by_hand() -> None:
    assert [(c.node, c.size, c.birth, c.end) for c in TREE.below(10)] == [
        (11, 6, 1.0, 1.5),
        (12, 3, 1.0, 4.0),
    ]
    assert TREE.members(11).tolist() == [0, 1, 2, 3, 4, 5]
    assert TREE.members(10).tolist() == list(range(10))
    assert TREE.density(TREE.below(10)[0]) == pytest.approx((3 * 4 + 3 * 1.6) / 6 - 1)
    assert TREE.density(TREE.below(10)[1]) == pytest.approx((2 + 2 + 4) / 3 - 1)


@pytest.mark.parametrize(
    ("changes", "poisoned", "depth", "sizes"),
    [
        ({}, [6, 7, 8], 1, (6, 3)),
        ({"rule": "stability"}, [0, 1, 2, 3, 4, 5], 1, (6, 3)),
        ({"persistence": 2.0}, [3, 4, 5, 6, 7, 8], 2, (3, 3, 3)),
        ({"xi": 0.6}, [3, 4, 5, 6, 7, 8], 2, (3, 3, 3)),
        ({"xi": 0.6, "depth": 1}, None, 0, ()),
        ({"xi": 3.0}, None, 0, ()),
        ({"least_share": 0.6}, [6, 7, 8], 1, (6, 3)),
        ({"least_share": 0.61}, None, 0, ()),
    ],
)
def test_the_walk(
    changes: dict[str, Any], poisoned: list[int] | None, depth: int, sizes: tuple[int, ...]
) -> None:
    split = stable_split(TREE, replace(PUBLISHED, **changes))
    if poisoned is None:
        assert split is None
        return
    assert split is not None
    assert split.poisoned.tolist() == poisoned
    assert (split.depth, split.sizes, split.noise) == (depth, sizes, 1)
    assert split.stability == (0.5 if depth == 1 else 2.5)
    assert split.persistence == pytest.approx(1.5 if depth == 1 else 4 / 1.5)


def test_a_tree_without_clusters_has_no_split() -> None:
    rows = np.array([(3, i, np.inf, 1) for i in range(3)], dtype=KIND)
    assert stable_split(CondensedTree(rows), PUBLISHED) is None


@pytest.mark.parametrize(
    ("selection", "dropped", "kept", "asked"),
    [
        ("adaptive", 0, 3, [6, 5, 4, 3]),
        ("none", 0, None, [6]),
        ("fixed", 3, 3, [3]),
        ("fixed", 2, None, [4]),
    ],
)
def test_layers_are_dropped_from_the_end(
    selection: Selection, dropped: int, kept: int | None, asked: list[int]
) -> None:
    seen: list[int] = []

    def split_of(layers: int) -> str | None:
        seen.append(layers)
        return "split" if layers <= 3 else None

    found = select_subspace(6, split_of, SubspaceConfig(selection, dropped))
    assert seen == asked
    assert found.tried == len(asked)
    assert (found.split, found.kept) == (("split", kept) if kept else (None, 6 - dropped))


def test_adaptive_selection_gives_up_at_the_least_layers() -> None:
    found = select_subspace(6, lambda _: None, SubspaceConfig(least_layers=4))
    assert (found.split, found.tried) == (None, 3)
    assert select_subspace(2, lambda _: None, SubspaceConfig(least_layers=4)).tried == 1
    with pytest.raises(InputError, match="a layer or more to be left, got 2 dropped of 2"):
        select_subspace(2, lambda _: None, SubspaceConfig("fixed", dropped=2))
