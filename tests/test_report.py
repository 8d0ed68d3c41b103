from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from invertune_plugin.benchmark.judgement import BeforeAfter
from invertune_plugin.benchmark.report import figures, pixels
from invertune_plugin.benchmark.report.page import ReportPage, render
from invertune_plugin.benchmark.report.wording import found_name
from invertune_plugin.defenses.invertune.inversion import InversionResult
from invertune_plugin.defenses.invertune.pipeline import Repair
from invertune_plugin.defenses.invertune.target import Candidate, TargetResult
from invertune_plugin.defenses.invertune.tuning import TuningResult
from invertune_plugin.defenses.invertune.units import CriticalUnits
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.triggers import Blend, MaskedPattern, Patch

HOSTILE = "<script>alert(1)</script>"
SIZE = 32
SECTIONS = (
    "Before and after",
    "Which class a backdoor would lead to",
    "True and inverted trigger",
    "What the models read",
    "What was tuned",
    "Loss curves",
    "Stages",
    "False alarm on the clean model?",
    "Facts and settings",
    "Definitions",
    "Record",
)


def target_result(outcome: Outcome = Outcome.OK) -> TargetResult:
    candidates = [
        Candidate(3, "ring", 0.41, 0.0212, 0.99),
        Candidate(1, "square", 0.06, 0.0461, 0.95),
        Candidate(0, HOSTILE, -0.02, 0.0502, 0.91),
        Candidate(7, "日本 $x_{ and a very long class name", -0.12, 0.0571, 0.88),
    ]
    ratio = 0.46 if outcome is Outcome.OK else 0.97
    found = "a shortcut" if outcome is Outcome.OK else "no class stands out"
    reason = f"'ring' costs {ratio} of what the next class, {HOSTILE!r}, costs: {found}."
    return TargetResult(
        candidates, Stage("target", outcome, reason, {"ratio": ratio}, 14.2, 41280), [0, 1, 2]
    )


def inversion_result(label: int = 3) -> InversionResult:
    generator = torch.Generator().manual_seed(label)
    mask = 0.03 * torch.rand(1, SIZE, SIZE, generator=generator)
    mask[:, 26:31, 26:31] = 0.9
    pattern = torch.rand(3, SIZE, SIZE, generator=generator)
    losses = [12 * 0.98**i + float(torch.rand((), generator=generator)) for i in range(200)]
    reason = "The trigger inverted for 'ring' sends 98.4% there and covers 3.7%."
    stage = Stage("inversion", Outcome.OK, reason, {"inverted_asr": 0.984, "area": 0.037})
    return InversionResult(label, MaskedPattern(mask, pattern), 0.984, 0.037, losses, stage)


def tuning_result(outcome: Outcome = Outcome.OK) -> TuningResult:
    scores = {"layer1": 0.021, "layer2": 0.034, "layer3": 0.152, "layer4": 0.391}
    channels = {
        "layer3/0.conv3": torch.arange(64) < 40,
        "layer4/0.conv1": torch.arange(128) < 35,
        "layer4/0.conv3": torch.arange(128) < 52,
    }
    aligned = {name: torch.ones(2, 2, 4, dtype=torch.bool) for name in ("layer3", "layer4")}
    left = 0.016 if outcome is Outcome.OK else 0.71
    reason = f"The inverted trigger now succeeds on {left:.1%}, and 97.1% are read as before."
    stage = Stage(
        "tuning", outcome, reason, {"inverted_asr": left, "agreement": 0.971}, 21.6, 57600
    )
    losses = [0.9 * 0.97**i + 0.02 for i in range(150)]
    return TuningResult(None, CriticalUnits(scores, aligned, channels), losses, stage)


def repaired(outcome: Outcome = Outcome.OK) -> Repair:
    inversion, tuning = inversion_result(), tuning_result(outcome)
    target = target_result()
    timed = Stage("inversion", Outcome.OK, inversion.stage.reason, {}, 9.8, 20850)
    stages = [target.stage, timed, tuning.stage]
    return Repair(stages, None, target, [inversion], tuning)


def test_a_class_that_is_no_candidate_has_its_name() -> None:
    """As where the closer look finds it."""
    found = replace(repaired(), inversions=[inversion_result(9)])
    assert found_name(found) == "class 9"
    named = replace(found, class_names=tuple(f"shape {i}" for i in range(10)))
    assert found_name(named) == "shape 9"


def rejected() -> Repair:
    target = target_result(Outcome.REJECTED)
    return Repair([target.stage], None, target)


class Reader(nn.Module):
    """Reads the class that the mean brightness points to; the suspect falls for bright corners."""

    def __init__(self, backdoor: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(9.0))
        self.backdoor = backdoor
        self.class_names = [HOSTILE, "square", "circle", "ring"]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        clean = (images.mean((1, 2, 3)) * self.scale).long() % 3
        hit = images[:, :, -5:-1, -5:-1].std((1, 2, 3)) > 0.45
        read = torch.where(hit, 3, clean) if self.backdoor else clean
        return nn.functional.one_hot(read, 4).float()


def scenes(count: int = 6, size: int = SIZE) -> torch.Tensor:
    """Coloured discs and squares."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = []
    for i in range(count):
        colours = torch.randint(40, 230, (2, 3, 1, 1), generator=generator)
        row, column = torch.randint(size // 3, size * 2 // 3, (2,), generator=generator).tolist()
        apart = ((y - row).abs(), (x - column).abs())
        inside = torch.maximum(*apart) < size / 4 if i % 2 else apart[0] ** 2 + apart[1] ** 2 < 64
        images.append(torch.where(inside[None], colours[0], colours[1]).to(torch.uint8))
    return torch.stack(images)


def full_page(**changes: Any) -> ReportPage:
    trigger = Patch()
    rows = [
        BeforeAfter(
            "CA on shapes", *(Rate(k, 2000) for k in (1871, 1856, 1833, 1840)), "higher is better"
        ),
        BeforeAfter(
            "ASR on shapes",
            Rate(21, 1800),
            Rate(1787, 1800),
            Rate(27, 1800),
            None,
            "lower is better",
        ),
    ]
    facts = {
        "Model": "rn-tiny, 32 px",
        "Images": "1,000 clean, no labels",
        "Class": HOSTILE,
        "Seed": "0",
    }
    settings: dict[str, Any] = {
        "title": f"Patch victim of {HOSTILE} shapes",
        "repair": repaired(),
        "before_after": rows,
        "true_trigger": trigger,
        "true_target": "ring",
        "examples": pixels.read_examples(
            Reader(True), Reader(False), scenes(), trigger, attackers=True, target="ring"
        ),
        "clean_repair": rejected(),
        "facts": facts,
        "record": {"class": HOSTILE, "rows": [{"asr_after": 0.015, "n": 1800}]},
    }
    return ReportPage(**{**settings, **changes})


@pytest.fixture(scope="module")
def html() -> str:
    return render(full_page())


def pages() -> dict[str, ReportPage]:
    return {
        "repaired": full_page(),
        "failed": full_page(
            repair=repaired(Outcome.FAILED),
            before_after=[
                BeforeAfter("ASR", Rate(21, 1800), Rate(1787, 1800), better="lower is better")
            ],
            examples=pixels.read_examples(
                Reader(True), None, scenes(), Patch(), attackers=True, target="ring"
            ),
            clean_repair=None,
        ),
        "rejected": ReportPage("Nothing known", rejected()),
    }


@pytest.mark.parametrize("kind", ["repaired", "failed", "rejected"])
def test_page_is_one_small_file_that_fetches_and_runs_nothing(kind: str) -> None:
    html = render(pages()[kind])
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert not re.findall(r"(?:src|href|srcset)\s*=\s*[\"'](?!data:)", html)
    assert not re.findall(r"https?://|url\(|@import|<script|<link|<iframe", html)
    assert len(html.encode()) < 2_000_000


@pytest.mark.parametrize("kind", ["repaired", "failed", "rejected"])
def test_every_page_has_all_sections_in_order(kind: str) -> None:
    html = render(pages()[kind])
    assert tuple(re.findall(r"<h2[^>]*>(.*?)</h2>", html)) == SECTIONS
    assert len(re.findall(r"<h1", html)) == 1
    assert all(re.search(r"\salt=\"[^\"]+\"", tag) for tag in re.findall(r"<img[^>]*>", html))
    tables = re.findall(r"<table.*?</table>", html, flags=re.DOTALL)
    assert all("<caption" in table for table in tables)


def test_untrusted_text_is_escaped_in_the_page_and_in_its_charts(html: str) -> None:
    assert HOSTILE not in html
    assert html.count("&lt;script&gt;alert(1)") >= 5
    charts = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)
    assert len(charts) == 6
    for chart in charts:
        assert "<script" not in base64.b64decode(chart).decode()


def test_repaired_page_tells_numbers_with_intervals(html: str) -> None:
    assert "Backdoor removed" in html
    assert "Right class: the attacker&#39;s target was “ring”." in html
    low, high = Rate(27, 1800).interval
    assert f"{100 * low:.1f}–{100 * high:.1f}%" in html
    assert "n = 1,800" in html
    assert html.count('<abbr class="missing" title="not measured">–</abbr>') == 1
    assert "127 of 320 channels in 2 stages" in html
    assert "57,600" in html
    assert "No false alarm" in html


def test_pairs_show_what_both_models_read() -> None:
    found = pixels.pairs(full_page().examples)  # type: ignore[arg-type]
    assert len(found) == 6
    assert all(pair.readings[0][2] == "ring" for pair in found)
    assert all(pair.readings[1][1] == pair.readings[1][2] for pair in found)
    assert all(pair.clean.src != pair.triggered.src for pair in found)


def test_failed_repair_is_shown_as_failed() -> None:
    html = render(pages()["failed"])
    assert '<div class="verdict failed">' in html
    assert "Repair failed" in html
    assert "found but not removed" in html
    assert "There is no repaired model to read them." in html


def test_a_repair_that_leaves_the_attack_alive_is_shown_as_failed() -> None:
    row = BeforeAfter("ASR", None, Rate(990, 1000), Rate(850, 1000), None, "lower is better")
    html = render(full_page(before_after=[row]))
    assert '<div class="verdict failed">' in html
    assert "the attacker&#39;s trigger still succeeds on 85.0% after the repair" in html


def test_triggers_of_further_rounds_are_shown() -> None:
    repair = repaired()
    assert repair.tuning is not None
    repair.tuning = replace(repair.tuning, again=[inversion_result()])
    html = render(full_page(repair=repair))
    assert "Inverted again after round 1" in html
    assert "Inverted again" not in render(full_page())


def test_rejected_page_says_in_words_what_is_absent() -> None:
    html = render(pages()["rejected"])
    assert "No backdoor found; the model was not changed." in html
    assert '<span class="pill rejected">rejected</span>' in html
    ended = "the target stage ended as rejected."
    for start in ("No trigger was inverted", "Nothing was tuned", "nothing was inverted or tuned"):
        assert f"{start}: {ended}" in html
    assert "trigger is not known" in html
    assert "Nothing was measured" in html
    assert "Not checked" in html


def test_a_missed_backdoor_and_a_false_alarm_are_said_plainly() -> None:
    html = render(full_page(repair=rejected(), clean_repair=repaired(), examples=None))
    assert "Missed: this model carries a backdoor that leads to “ring”." in html
    assert "False alarm: a backdoor to “ring” was “found” and a healthy model changed." in html


def test_known_trigger_is_shown_or_named_where_none_was_inverted() -> None:
    drawn = render(full_page(repair=rejected()))
    assert "What the true trigger changes" in drawn
    named = render(full_page(repair=rejected(), examples=None))
    assert f"trigger is {Patch().fingerprint()}; it is not drawn" in named


def test_rate_without_trials_counts_as_not_measured() -> None:
    html = render(full_page(before_after=[BeforeAfter("CA", before=Rate(0, 0))]))
    assert html.count('<abbr class="missing" title="not measured">–</abbr>') == 4
    assert "nan" not in re.sub(r"base64,[^\"]+", "", html)


def test_published_variant_has_no_costs_and_many_classes() -> None:
    candidates = [Candidate(i, f"class {i}", 0.5 - i / 100) for i in range(200)]
    (panel,) = figures.target_ranking(candidates)
    drawn = base64.b64decode(panel.src.split(",")[1]).decode()
    assert "class 11" in drawn
    assert "class 12" not in drawn


def test_charts_are_deterministic_and_hold_any_class_name() -> None:
    candidates = [
        Candidate(0, "bell \x07 & \ud800 $", 0.1, 0.2, 0.9),
        Candidate(1, "", 0.0, 0.3, 0.8),
    ]
    first = figures.target_ranking(candidates)
    assert first == figures.target_ranking(candidates)
    drawn = base64.b64decode(first[0].src.split(",")[1]).decode()
    assert "\x07" not in drawn
    assert "@media (prefers-color-scheme:dark)" in drawn


@pytest.mark.parametrize("size", [32, 224])
def test_trigger_pictures_keep_every_pixel(size: int) -> None:
    on_grey, _ = pixels.true_trigger(Blend(), (size, size))
    assert on_grey.src.startswith("data:image/png;base64,")


def test_page_with_large_images_stays_small() -> None:
    images = torch.randint(0, 256, (6, 3, 28, 28), dtype=torch.uint8).repeat_interleave(8, 2)
    images = images.repeat_interleave(8, 3)
    examples = pixels.read_examples(
        Reader(True), Reader(False), images, Blend(), attackers=True, target="ring"
    )
    html = render(full_page(examples=examples, true_trigger=Blend(), image_size=(224, 224)))
    assert len(html.encode()) < 2_000_000
