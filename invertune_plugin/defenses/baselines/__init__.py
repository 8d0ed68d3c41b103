"""Repairs of others, and InverTune beside them, under one contract: ``run_repair(name, ...)``."""

from invertune_plugin.defenses.baselines.registry import (
    BASELINES,
    Baseline,
    baseline_of,
    run_repair,
)
from invertune_plugin.defenses.repair import DefenderData, Repaired

__all__ = ["BASELINES", "Baseline", "DefenderData", "Repaired", "baseline_of", "run_repair"]
