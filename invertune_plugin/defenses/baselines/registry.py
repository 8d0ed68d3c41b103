"""Every repair by its name, called in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from invertune_plugin.config import named, parse
from invertune_plugin.defenses.baselines.clean_clip import CleanClip, clean_clip
from invertune_plugin.defenses.baselines.fine_tuning import FineTuning, fine_tuning
from invertune_plugin.defenses.baselines.inver_tune import inver_tune
from invertune_plugin.defenses.baselines.linear_probe import LinearProbe, linear_probe
from invertune_plugin.defenses.baselines.nothing import Nothing, nothing
from invertune_plugin.defenses.baselines.par import Par, par
from invertune_plugin.defenses.baselines.prompts import why_no_prompts
from invertune_plugin.defenses.baselines.rvpt import Rvpt, rvpt
from invertune_plugin.defenses.invertune import InverTuneConfig
from invertune_plugin.defenses.repair import DefenderData, Need, Repaired, Report, impossible
from invertune_plugin.plugins import Catalogue
from invertune_plugin.processes import ALONE, Processes


def _works_always(_: Any) -> str | None:
    return None


@dataclass(frozen=True)
class Baseline:
    """A repair and what it takes.

    Attributes:
        config: dataclass of its settings.
        run: (suspect, data, config, seed, report, processes) -> what it made.
        needs: what it needs of the defender's data.
        why_not: why it cannot work on a suspect, in a sentence; None where it can.
        detects: whether it says of a model that it has a backdoor, and can be wrong about it.
    """

    config: type[Any]
    run: Callable[[Any, DefenderData, Any, int, Report | None, Processes], Repaired]
    needs: tuple[Need, ...] = ()
    why_not: Callable[[Any], str | None] = _works_always
    detects: bool = False


BASELINES: Catalogue[Baseline] = Catalogue(
    "repair",
    "invertune.defenses",
    {
        "none": Baseline(Nothing, nothing),
        "fine_tuning": Baseline(FineTuning, fine_tuning, ("pairs",)),
        "clean_clip": Baseline(CleanClip, clean_clip, ("pairs",)),
        "par": Baseline(Par, par, ("pairs",)),
        "linear_probe": Baseline(LinearProbe, linear_probe, ("labels",)),
        "rvpt": Baseline(Rvpt, rvpt, ("labels",), why_no_prompts),
        "inver_tune": Baseline(InverTuneConfig, inver_tune, ("images",), detects=True),
    },
    lambda found: isinstance(found, Baseline),
)
"""The repairs of this package, and those of installed packages."""


def run_repair(
    name: str,
    suspect: Any,
    data: DefenderData,
    options: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
    report: Report | None = None,
    processes: Processes = ALONE,
) -> Repaired:
    """Repair a copy of a suspect; suspect and global random state come back as they were.

    Args:
        name: a key of ``BASELINES``.
        suspect: a ``ZeroShotClassifier``.
        data: what the defender has.
        options: settings by name, see the config class of the baseline.
        seed: of everything random.
        report: called with sentences.
        processes: that repair together; all get what it made.

    Returns:
        Without classifier and ``rejected``, with the reason, where it cannot work on the suspect.

    Raises:
        InputError: the name or an option is unknown, a value is wrong, or data are missing; before
            any work.
    """
    baseline = baseline_of(name)
    config = parse(baseline.config, options, name)
    reason = baseline.why_not(suspect)
    if reason is not None:
        return impossible(name, reason)
    data.check(name, baseline.needs, suspect)
    return baseline.run(suspect, data, config, seed, report, processes)


def baseline_of(name: str) -> Baseline:
    """A baseline by its name.

    Raises:
        InputError: there is none of that name; the nearest one is told.
    """
    return named("repair", name, BASELINES)
