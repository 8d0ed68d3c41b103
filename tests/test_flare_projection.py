"""What the projection does to the process it runs in."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from invertune_plugin.defenses.flare.projection import ProjectionConfig, projected


@pytest.mark.skipif(os.cpu_count() == 1, reason="numba takes one thread there")
def test_umap_leaves_torch_its_threads() -> None:
    """Numba's OpenMP sets the threads of the whole process to all cores."""
    pytest.importorskip("umap", reason="needs umap-learn")
    before = torch.get_num_threads()
    values = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    try:
        torch.set_num_threads(1)
        projected(values, ProjectionConfig("umap", neighbours=10))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
