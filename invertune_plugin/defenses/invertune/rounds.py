"""Step 3 in rounds: what is left of the backdoor is inverted again and tuned away.

Published is one round. An inverted trigger is smaller and stronger than the attacker's, so that one
round silences it and leaves part of the attacker's. The next inversion, on the repaired model, has
to find another way to the target, and both triggers are tuned away together.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from invertune_plugin.defenses.invertune.inversion import (
    InversionConfig,
    InversionResult,
    invert_trigger,
)
from invertune_plugin.defenses.invertune.tuning import TuningConfig, TuningResult, tune
from invertune_plugin.outcome import Outcome
from invertune_plugin.processes import ALONE, Processes


def tune_in_rounds(
    suspect: Any,
    images: Tensor,
    held_back: Tensor,
    found: InversionResult,
    inversion: InversionConfig,
    tuning: TuningConfig,
    seed: int = 0,
    processes: Processes = ALONE,
) -> TuningResult:
    """Tune the found trigger away, then what can still be inverted for its class.

    It ends early where no trigger is accepted any more, or where a round diverged. A round that
    fails its check may be saved by the next one, but is taken back where the one before had passed.

    Args:
        suspect: the classifier with the backdoor; frozen, in eval mode.
        images: clean images, ``uint8 [N, 3, H, W]``.
        held_back: clean images to judge by, ``uint8 [M, 3, H, W]``.
        found: the trigger of step 2.
        inversion: how to invert again.
        tuning: how to tune, and in how many rounds.
        seed: of all rounds.
        processes: that invert and tune together.
    """
    triggers = [found.trigger]
    done = tune(
        suspect, images, held_back, triggers, found.label, tuning, seed, processes=processes
    )
    for number in range(1, tuning.rounds):
        if not math.isfinite(done.losses[-1]):
            break
        left = invert_trigger(
            done.classifier, images, held_back, found.label, inversion, seed + number, processes
        )
        done.again.append(left)
        if left.stage.outcome is not Outcome.OK:
            break
        triggers.append(left.trigger)
        more = tune(
            suspect,
            images,
            held_back,
            triggers,
            found.label,
            tuning,
            seed,
            done.classifier,
            processes,
        )
        if done.stage.outcome is Outcome.OK and more.stage.outcome is not Outcome.OK:
            break
        done = replace(
            more,
            units=done.units.joined(more.units),
            losses=done.losses + more.losses,
            again=done.again,
        )
    return done
