"""One self-contained HTML page about a repair: fetches nothing, runs nothing, fits a phone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from invertune_plugin.benchmark.judgement import BeforeAfter, judged
from invertune_plugin.benchmark.report import figures, pixels, wording
from invertune_plugin.benchmark.report.figures import Picture
from invertune_plugin.benchmark.report.html import render_page
from invertune_plugin.benchmark.report.pixels import Examples
from invertune_plugin.defenses.invertune.inversion import InversionResult
from invertune_plugin.defenses.invertune.pipeline import Repair
from invertune_plugin.metrics import DEFINITIONS
from invertune_plugin.outcome import Outcome
from invertune_plugin.triggers import Trigger

NAMES = {"ca": "CA", "asr": "ASR", "asr_clean": "ASR on the clean model"}


@dataclass(frozen=True)
class ReportPage:
    """What the page tells. All texts are untrusted and escaped.

    Attributes:
        title: of the page.
        repair: what the defence found and did.
        verdict: one sentence; by default told from the repair and the main table.
        outcome: of the whole; by default that of ``judged``.
        before_after: rows of the main table.
        true_trigger: the attacker's trigger, where it is known.
        true_target: name of the attacker's class, where it is known.
        image_size: height and width that the true trigger is drawn at; by default those of
            the inverted trigger or of the examples.
        examples: images without and with the trigger; see ``pixels.read_examples``.
        examples_from: whose images these are.
        clean_repair: the same defence on the clean model, the check for false alarms.
        facts: model, images, seed, versions and settings, by name.
        definitions: of the metrics; terms of this page are added.
        record: the JSON record.
    """

    title: str
    repair: Repair
    verdict: str = ""
    outcome: Outcome | None = None
    before_after: Sequence[BeforeAfter] = ()
    true_trigger: Trigger | None = None
    true_target: str | None = None
    image_size: tuple[int, int] | None = None
    examples: Examples | None = None
    examples_from: str = "Test images"
    clean_repair: Repair | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=lambda: dict(DEFINITIONS))
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TriggerRow:
    """Pictures of one trigger under a heading."""

    heading: str
    note: str
    pictures: list[Picture]


def render(page: ReportPage) -> str:
    """The page as HTML."""
    repair = page.repair
    judgement = judged(repair, page.before_after)
    outcome = page.outcome or judgement.outcome
    curves = {wording.class_name(repair, i.label): i.losses for i in repair.inversions}
    tuning = repair.tuning
    return render_page(
        "report.html.j2",
        page=page,
        outcome=outcome.value,
        badge=wording.BADGES[outcome],
        verdict=page.verdict or wording.verdict(repair, judgement, page.true_target),
        truth=wording.truth(repair, page.true_target, judgement),
        glance=_glance(page),
        ranking=figures.target_ranking(repair.target.candidates, repair.found_label)
        if repair.target
        else [],
        triggers=_triggers(page),
        pairs=pixels.pairs(page.examples) if page.examples else [],
        units=figures.tuned_units(tuning.units) if tuning else [],
        curves=figures.loss_curves(curves, tuning.losses if tuning else None),
        ended=wording.ended(repair),
        alarm=wording.false_alarm(page.clean_repair) if page.clean_repair else None,
        definitions={NAMES.get(k, k): v for k, v in page.definitions.items()} | wording.TERMS,
        record=json.dumps(page.record, indent=2, ensure_ascii=False, default=str),
    )


def _glance(page: ReportPage) -> dict[str, str]:
    """The few facts a reader looks for first."""
    repair = page.repair
    facts = {"Target found": wording.found_name(repair) or "none"}
    facts["Attacker's target"] = page.true_target or "not known"
    if repair.inversions:
        last = repair.inversions[-1]
        facts["Inverted trigger"] = f"{last.asr:.1%} success, covers {last.area:.1%}"
    if repair.tuning:
        counts = repair.tuning.units.tuned()
        chosen, count = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
        facts["Tuned"] = f"{chosen:,} of {count:,} channels in {len(counts)} stages"
    facts["Time"] = f"{sum(stage.seconds for stage in repair.stages):.1f} s"
    return facts


def _triggers(page: ReportPage) -> list[TriggerRow]:
    """Every inverted trigger with its outcome, those of further rounds, then the true one."""
    rows = [_inverted_row(page.repair, inversion) for inversion in page.repair.inversions]
    again = page.repair.tuning.again if page.repair.tuning else []
    rows += [
        TriggerRow(
            f"Inverted again after round {number}",
            left.stage.reason + " It was inverted on the repaired model.",
            pixels.inverted_trigger(left.trigger),
        )
        for number, left in enumerate(again, start=1)
    ]
    drawn = [inversion.trigger.pattern for inversion in page.repair.inversions]
    drawn += [page.examples.clean] if page.examples else []
    size = page.image_size or ((drawn[0].shape[-2], drawn[0].shape[-1]) if drawn else None)
    if page.true_trigger is not None and size is not None:
        pictures = pixels.true_trigger(page.true_trigger, size)
        rows.append(TriggerRow("The attacker's trigger", page.true_trigger.fingerprint(), pictures))
    return rows


def _inverted_row(repair: Repair, inversion: InversionResult) -> TriggerRow:
    used = repair.tuning is not None and inversion is repair.inversions[-1]
    heading = f"Inverted for “{wording.class_name(repair, inversion.label)}”"
    note = inversion.stage.reason + (" The repair used it." if used else "")
    return TriggerRow(heading, note, pixels.inverted_trigger(inversion.trigger))
