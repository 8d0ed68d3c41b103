"""What a grid measures of a model: classification always in the same way, retrieval if asked.

Of an attack with several triggers, the one that works best on the model is its attack success.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from invertune_plugin.benchmark.bench.opening import Opened
from invertune_plugin.benchmark.experiment.measuring import best, measure
from invertune_plugin.benchmark.record import rate_fields
from invertune_plugin.retrieval import measure_retrieval
from invertune_plugin.zero_shot import ZeroShotClassifier

Row = dict[str, Any]


def measured(metrics: Sequence[str], role: str, model: Any, opened: Opened) -> Row:
    """Flat fields of a model that end in its role.

    Args:
        metrics: keys of ``METRICS``.
        role: ``clean``, ``before``, ``after`` or ``rebound``.
        model: a classifier with ``class_names``; images in [0, 1] to logits.
        opened: gives data and backdoors.
    """
    row: Row = {}
    for name in metrics:
        row |= METRICS[name](role, model, opened)
    return row


def classification(role: str, model: Any, opened: Opened) -> Row:
    """CA and ASR on the main test set, and with ``second`` in their names on the other one.

    A model without texts is measured on the classes that it was trained for only. Where there are
    several triggers, each has its own field beside: ``asr_after_trigger2`` is the second one's.
    """
    row: Row = {}
    for test, name in zip(opened.tests, (role, f"{role}_second"), strict=False):
        if (
            not isinstance(model, ZeroShotClassifier)
            and test.class_names != opened.sources.class_names
        ):
            continue
        found = [measure(model, test, backdoor) for backdoor in opened.backdoors]
        reached = [each.asr for each in found]
        row |= rate_fields(f"ca_{name}", found[0].ca) | rate_fields(f"asr_{name}", best(reached))
        if len(reached) > 1:
            for n, rate in enumerate(reached, 1):
                row |= rate_fields(f"asr_{name}_trigger{n}", rate)
    return row


def retrieval(role: str, model: Any, opened: Opened) -> Row:
    """R@k both ways and retrieval ASR; nothing of a model that cannot encode texts."""
    if not isinstance(model, ZeroShotClassifier):
        return {}
    pairs = opened.captioned_test
    found = [measure_retrieval(model, pairs, b.trigger, b.target) for b in opened.backdoors]
    row: Row = {f"target_rank_{role}": min(each.target_rank for each in found)}
    for k in found[0].attack:
        row |= rate_fields(f"i2t_r{k}_{role}", found[0].image_to_text[k])
        row |= rate_fields(f"t2i_r{k}_{role}", found[0].text_to_image[k])
        row |= rate_fields(f"retrieval_asr{k}_{role}", best([each.attack[k] for each in found]))
    return row


METRICS: Mapping[str, Callable[[str, Any, Opened], Row]] = {
    "classification": classification,
    "retrieval": retrieval,
}
