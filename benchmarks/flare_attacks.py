"""The attacks of the table of labelled sets, by name: what they plant, and whether it works."""

from __future__ import annotations

from typing import Any

import torch

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.label_rules import AllToAll, AllToOne, LabelRule, Untargeted
from invertune_plugin.attacks.labels import PoisonedLabels
from invertune_plugin.data import InMemory, Subset, batches, to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate, predict
from invertune_plugin.triggers import Blend, Patch, Trigger, Warp, Watermark

TRIGGERS: dict[str, Trigger] = {
    "badnets": Patch(size=3),
    "blend": Blend(),
    "trojan": Watermark(),
    "wanet": Warp(),
    "wanet_strong": Warp(strength=2.0),
}
ATTACKS = (
    "none",
    *(f"{mode}-{name}" for mode in ("a2o", "a2a", "ut") for name in ("badnets", "blend", "trojan")),
    "a2o-wanet",
    "a2o-wanet_strong",
)
TARGET, RATE = 1, 0.1


def told(attack: str) -> tuple[str, str] | None:
    """Mode and trigger of an attack by name; None for ``none``.

    Raises:
        InputError: there is no such attack.
    """
    if attack not in ATTACKS:
        raise InputError(f"Expected an attack among {', '.join(ATTACKS)}, got {attack!r}.")
    if attack == "none":
        return None
    mode, trigger = attack.split("-")
    return mode, trigger


def planted(attack: str) -> dict[str, Any] | None:
    """Trigger and target of an attack by name; None for ``none``."""
    if (named := told(attack)) is None:
        return None
    mode, trigger = named
    target = TARGET if mode == "a2o" else None
    return {"trigger": TRIGGERS[trigger].fingerprint(), "target": target}


def poisoned(clean: InMemory[int], attack: str, classes: int, seed: int) -> PoisonedLabels | None:
    """The poisoned set of an attack by name; None for ``none``."""
    if (named := told(attack)) is None:
        return None
    mode, trigger = named
    rules: dict[str, LabelRule] = {
        "a2o": AllToOne(TARGET),
        "a2a": AllToAll(classes),
        "ut": Untargeted(classes, seed),
    }
    return PoisonedLabels(clean, [Backdoor(TRIGGERS[trigger], rules[mode])], RATE, seed)


def success(model: torch.nn.Module, attack: PoisonedLabels, test: InMemory[int]) -> Rate:
    """Share of triggered test images that are read as the rule says; untargeted: as another class.

    Only images count that the model reads rightly without the trigger where the rule is untargeted.
    """
    view = attack.test_view(test)
    rule = attack.backdoors[0].target
    goals, read, right = torch.tensor(list(view.texts)), [], []
    for images, _ in batches(view, 256):
        read.append(predict(model, to_unit(images)))
    for images, _ in batches(Subset(test, view.indices), 256):
        right.append(predict(model, to_unit(images)))
    found, clean = torch.cat(read), torch.cat(right)
    originals = torch.tensor(view.originals)
    if not isinstance(rule, Untargeted):
        return Rate(int((found == goals).sum()), len(goals))
    counts = clean == originals
    return Rate(int((found != originals)[counts].sum()), int(counts.sum()))
