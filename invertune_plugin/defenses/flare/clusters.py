"""Two clusters out of a condensed tree: a walk to the first large cluster that lives long.

FLARE (arXiv 2411.19479; steps 5, 6 and 8 as released): from the largest cluster below the root the
walk goes to its largest child, until a cluster lives from its birth ``lambda`` to its end longer
than ``xi``. What split off on the way are the other clusters; samples in none are noise.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np

from invertune_plugin.defenses.flare.projection import EXTRA
from invertune_plugin.errors import InputError

Rule = Literal["size", "stability"]


@dataclass(frozen=True)
class ClusterConfig:
    """What counts as a split.

    Attributes:
        min_cluster_size: fewest samples of a cluster; as distances are taken to so many neighbours,
            too, a cluster that lies alone needs one more.
        depth: clusters that the walk looks at.
        xi: least ``lambda`` (one over distance) between birth and end of a stable cluster.
        persistence: least ratio of end and birth of one; 1 is the published rule, which takes
            ripples in the density of a clean set for splits.
        least_share: least share of all samples in a stable cluster, since most samples are clean;
            0 as published.
        rule: which side is poisoned: all but the largest cluster (``size``, as released), or the
            denser side (``stability``, as the paper's abstract says).
    """

    min_cluster_size: int = 100
    depth: int = 3
    xi: float = 0.02
    persistence: float = 2.0
    least_share: float = 0.5
    rule: Rule = "size"

    def __post_init__(self) -> None:
        """Refuse settings without a meaning."""
        if self.min_cluster_size < 2 or self.depth < 1 or self.xi < 0 or self.persistence < 1:
            raise InputError(
                "Expected min_cluster_size >= 2, depth >= 1, xi >= 0 and persistence >= 1, got "
                f"{self.min_cluster_size}, {self.depth}, {self.xi} and {self.persistence}."
            )
        if not 0 <= self.least_share < 1:
            raise InputError(
                f"Expected least_share from 0 to below 1, got {self.least_share}. Lower it."
            )


@dataclass(frozen=True, eq=False)
class Split:
    """A set in two.

    Attributes:
        parts: indices of each cluster on the poisoned side, sorted; the largest first.
        stability: ``lambda`` from birth to end of the large cluster.
        persistence: ratio of end and birth.
        depth: where it stood on the walk, from 1.
        sizes: of all clusters, the large one first.
        noise: samples in no cluster.
    """

    parts: tuple[np.ndarray, ...]
    stability: float
    persistence: float
    depth: int
    sizes: tuple[int, ...]
    noise: int

    @property
    def poisoned(self) -> np.ndarray:
        """Indices on the poisoned side, sorted."""
        return np.sort(np.concatenate(self.parts))


@dataclass(frozen=True)
class Cluster:
    """A cluster of a condensed tree: node, samples, and ``lambda`` at its birth and its end."""

    node: int
    size: int
    birth: float
    end: float

    @property
    def stability(self) -> float:
        """``lambda`` from birth to end."""
        return self.end - self.birth

    @property
    def persistence(self) -> float:
        """Ratio of end and birth."""
        return float(self.end / self.birth) if self.birth > 0 else float("inf")


class CondensedTree:
    """The condensed tree of HDBSCAN (Campello et al. 2013).

    Duplicates have an infinite ``lambda``; it counts as the largest finite one.

    Args:
        rows: ``parent``, ``child``, ``lambda_val`` and ``child_size``, as hdbscan gives them; the
            N samples are 0 to N - 1 and the root is N.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.parent, self.child = rows["parent"].astype(np.int64), rows["child"].astype(np.int64)
        self.samples = rows["child_size"] == 1
        self.size = rows["child_size"].astype(np.int64)
        level = rows["lambda_val"].astype(np.float64)
        finite = level[np.isfinite(level)]
        self.level = np.minimum(level, finite.max() if len(finite) else 0.0)
        self.root = int(self.parent.min())

    def below(self, node: int) -> list[Cluster]:
        """Clusters that a cluster splits into, the largest first."""
        found = []
        for row in np.flatnonzero((self.parent == node) & ~self.samples):
            child = int(self.child[row])
            end = float(self.level[self.parent == child].max())
            found.append(Cluster(child, int(self.size[row]), float(self.level[row]), end))
        return sorted(found, key=lambda cluster: -cluster.size)

    def members(self, node: int) -> np.ndarray:
        """Samples of a cluster, sorted."""
        return np.sort(self.child[self._rows(node)])

    def density(self, cluster: Cluster) -> float:
        """How long the samples of a cluster stay in it, on average, in ``lambda``."""
        return float(self.level[self._rows(cluster.node)].mean() - cluster.birth)

    def _rows(self, node: int) -> np.ndarray:
        inside = new = [node]
        while new:
            new = [cluster.node for parent in new for cluster in self.below(parent)]
            inside = inside + new
        return np.flatnonzero(np.isin(self.parent, inside) & self.samples)


def why_no_clusters() -> str | None:
    """Why there can be no condensed tree here, in a sentence; None where there can."""
    if find_spec("hdbscan") is not None:
        return None
    return (
        "Expected the package hdbscan for FLARE's clusters, got none; scikit-learn's class of that "
        f"name has no condensed tree. {EXTRA}."
    )


def check_packages() -> None:
    """Refuse to begin where there can be no condensed tree.

    Raises:
        InputError: hdbscan is not installed.
    """
    if (reason := why_no_clusters()) is not None:
        raise InputError(reason)


def condensed_tree(places: np.ndarray, min_cluster_size: int) -> CondensedTree:
    """The condensed tree of samples ``[N, D]``, N at least ``min_cluster_size``.

    Raises:
        InputError: hdbscan is not installed.
    """
    check_packages()
    import hdbscan  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = hdbscan.HDBSCAN(min_cluster_size=min_cluster_size, core_dist_n_jobs=1).fit(places)
    return CondensedTree(fitted.condensed_tree_.to_numpy())


def stable_split(tree: CondensedTree, config: ClusterConfig) -> Split | None:
    """Walk down a condensed tree to the first stable cluster; None where there is none."""
    others: list[Cluster] = []
    node = tree.root
    for depth in range(1, config.depth + 1):
        found = tree.below(node)
        if not found:
            return None
        large = found[0]
        others += found[1:]
        stable = large.stability > config.xi and large.persistence >= config.persistence
        if stable and large.size >= config.least_share * tree.root:
            return _split(tree, large, others, config.rule, depth)
        node = large.node
    return None


def _split(
    tree: CondensedTree, large: Cluster, others: list[Cluster], rule: Rule, depth: int
) -> Split:
    clusters = sorted([large, *others], key=lambda cluster: -cluster.size)
    if rule == "size":
        poisoned = clusters[1:]
    else:
        densest = max(clusters, key=tree.density)
        poisoned = [large] if densest is large else others
    sizes = tuple(cluster.size for cluster in clusters)
    return Split(
        parts=tuple(tree.members(cluster.node) for cluster in poisoned),
        stability=large.stability,
        persistence=large.persistence,
        depth=depth,
        sizes=sizes,
        noise=tree.root - sum(sizes),
    )
