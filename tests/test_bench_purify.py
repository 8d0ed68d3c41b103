"""Purifiers in ``invertune bench``: search the victim's pairs, train on the rest, measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bench import write_recipe

from invertune_plugin.benchmark.bench import metrics as bench_metrics
from invertune_plugin.benchmark.bench import purify as bench_purify
from invertune_plugin.benchmark.bench.after import doubts_of
from invertune_plugin.benchmark.bench.cells import bench_cells
from invertune_plugin.benchmark.bench.defenses import PURIFYING
from invertune_plugin.benchmark.bench.opening import open_trained, open_victim
from invertune_plugin.benchmark.bench.recipe import load_bench
from invertune_plugin.benchmark.bench.settings import settings_of_victim
from invertune_plugin.benchmark.bench.victim import compute_victim
from invertune_plugin.benchmark.experiment.measuring import Measured
from invertune_plugin.benchmark.grid.cells import Parent
from invertune_plugin.benchmark.grid.plan import plan_cells
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.benchmark.grid_report.cards import TRAINING_PAIRS, defense_cards
from invertune_plugin.benchmark.grid_report.contents import Contents
from invertune_plugin.defenses.purifiers import Purified
from invertune_plugin.defenses.purify import Found, timed_search
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome

PAIRS, POISONED = 64, 6


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INVERTUNE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "grid.yaml"
    path.write_text(
        f"name: purify\nrecipes: [{write_recipe(tmp_path)}]\n"
        "attacks: [none, badnets, badencoder]\nrebound: 1\ndefenses:\n"
        "  purify:spectral_signatures: {rate: 0.1}\n  purify:clip_score: {}\n"
    )
    return path


def computed(grid: Path, attack: str, defense: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Records of a victim and of a defence, computed in this process."""
    names = {"attack": attack, "defense": defense}
    cells = bench_cells(load_bench(grid))
    cell = next(cell for cell in cells if names.items() <= cell.names.items())
    (victim,) = cell.parents
    before = compute_victim(victim.settings, (), grid.parent, print)
    parent = Parent(victim.kind.name, victim.settings, before.record, grid.parent)
    after = cell.kind.compute(cell.settings, (parent,), grid.parent, print)
    return dict(before.record), dict(after.record)


def test_what_labels_tell_of_poisoned_pairs(grid: Path) -> None:
    _, row = computed(grid, "badnets", "purify:spectral_signatures")
    assert row["outcome"] == "ok"
    assert (row["searched"], row["tpr_n"], row["fpr_n"]) == (PAIRS, POISONED, PAIRS - POISONED)
    assert row["removed"] > 0
    assert (row["ca_after_n"], row["ca_rebound_n"]) == (40, 40)


def test_what_is_removed_of_clean_pairs_is_a_false_alarm(grid: Path) -> None:
    _, row = computed(grid, "none", "purify:spectral_signatures")
    assert row["false_alarm"] is True, "it always removes a share"
    assert row["fpr_n"] == PAIRS
    assert "tpr" not in row
    assert row["ca_lost"] == pytest.approx(row["ca_before"] - row["ca_after"])


def test_clean_pairs_are_searched_with_the_model_that_they_trained(grid: Path) -> None:
    base = str(grid.parent / "tiny.yaml")
    settings = settings_of_victim("none", base, 0)
    opened = open_victim(settings, print)
    trained = open_trained(settings, print)
    assert trained.clean.clip.state_dict().keys() == opened.clean.clip.state_dict().keys()
    same = [
        torch.equal(one, other)
        for one, other in zip(
            opened.suspect.parameters(), trained.suspect.parameters(), strict=True
        )
    ]
    assert not all(same)
    victim = settings_of_victim("badnets", base, 0)
    assert open_trained(victim, print).sha256 == open_victim(victim, print).sha256
    with pytest.raises(InputError, match="files of attack badnets as they were"):
        open_victim(victim | {"made_of": {}}, print)


@pytest.mark.parametrize("attack", ["none", "badnets"])
def test_a_suspect_that_is_left_alone_has_the_numbers_that_it_had(
    grid: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    grid.write_text(grid.read_text() + "  purify:k_distance: {deviations: 1.0e+6}\n")
    counted: list[str] = []
    measure = bench_metrics.METRICS["classification"]

    def count(role: str, model: Any, opened: Any) -> dict[str, Any]:
        counted.append(role)
        return measure(role, model, opened)

    monkeypatch.setitem(bench_metrics.METRICS, "classification", count)  # type: ignore[arg-type]
    before, row = computed(grid, attack, "purify:k_distance")
    assert row["removed"] == 0
    again = ["before", "rebound"] if attack == "none" else []
    assert counted == ["clean", "before", "rebound", *again], "after it is what it was before"
    suspect = row if attack == "none" else before
    assert {row[f"{rate}_after{end}"] for rate in ("ca", "asr") for end in ("", "_n")} == {
        suspect[f"{rate}_before{end}"] for rate in ("ca", "asr") for end in ("", "_n")
    }
    assert row["ca_lost"] == 0
    assert row["ca_rebound_n"] == 40
    if attack == "badnets":
        assert (row["ca_rebound"], row["asr_rebound"]) == (
            before["ca_rebound"],
            before["asr_rebound"],
        )


def test_a_victim_that_was_made_twice_is_a_doubt(grid: Path) -> None:
    settings = settings_of_victim("none", str(grid.parent / "tiny.yaml"), 0)
    opened = open_victim(settings, print)

    def doubts(sha256: str | None) -> tuple[str, ...]:
        return doubts_of(opened, Parent("victim", settings, {"sha256": sha256}, grid.parent))

    assert doubts(opened.sha256) == doubts(None) == ()
    assert "made twice" in doubts("ab" * 32)[0]


def test_of_several_triggers_the_one_that_works_best_counts(
    grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(grid.parent / "tiny.yaml")
    opened = open_victim(settings_of_victim("multi_target", base, 0), print)
    hits = {backdoor.target: n for n, backdoor in enumerate(opened.backdoors, 3)}
    assert len(hits) == 3

    def measure(model: Any, test: Any, backdoor: Any) -> Measured:
        return Measured(Rate(8, 10), Rate(hits[backdoor.target], 10))

    monkeypatch.setattr(bench_metrics, "measure", measure)
    row = bench_metrics.classification("after", opened.suspect, opened)
    assert (row["ca_after"], row["asr_after"]) == (0.8, 0.5)
    assert [row[f"asr_after_trigger{n}"] for n in (1, 2, 3)] == [0.3, 0.4, 0.5]
    found = bench_metrics.retrieval("after", opened.suspect, opened)
    alone = [
        bench_metrics.retrieval("after", opened.suspect, replace(opened, backdoors=(backdoor,)))
        for backdoor in opened.backdoors
    ]
    assert found["retrieval_asr1_after"] == max(each["retrieval_asr1_after"] for each in alone)
    assert found["target_rank_after"] == min(each["target_rank_after"] for each in alone)


@pytest.mark.parametrize(
    ("removed", "outcome"),
    [((), Outcome.REJECTED), ((), Outcome.FAILED), (tuple(range(0, PAIRS, 2)), None)],
)
def test_what_is_measured_follows_from_what_was_found(
    grid: Path,
    monkeypatch: pytest.MonkeyPatch,
    removed: tuple[int, ...],
    outcome: Outcome | None,
) -> None:
    """Nothing found: the victim as it is; failed: nothing; else a model trained on the rest."""
    seen: list[int] = []

    def search(name: str, model: Any, data: Any, *rest: Any) -> Purified:
        found = Found(np.zeros(len(data)), removed, "told", outcome=outcome)
        return timed_search(name, model, 0, None, lambda _: found)

    def again(opened: Any, pairs: Any, seed: int, report: Any) -> Any:
        seen.append(len(pairs))
        return trained_again(opened, pairs, seed, report)

    trained_again = bench_purify.trained_again
    monkeypatch.setattr(bench_purify, "run_purifier", search)
    monkeypatch.setattr(bench_purify, "trained_again", again)
    victim, row = computed(grid, "badnets", "purify:clip_score")
    assert row["removed"] == len(removed)
    assert seen == ([PAIRS - len(removed)] if removed else [])
    assert ("ca_after" in row) == (outcome is not Outcome.FAILED)
    if outcome is Outcome.REJECTED:
        assert row["asr_after"] == victim["asr_before"]


def test_pairs_that_cannot_work_are_told_before_anything_runs(grid: Path) -> None:
    plan = plan_cells(bench_cells(load_bench(grid)), Store.open(grid.parent / "store"))
    assert {mark.about.names["attack"] for mark in plan.marked.values()} == {"badencoder"}
    assert all("without any" in mark.reason for mark in plan.marked.values())


@pytest.mark.parametrize("name", PURIFYING)
def test_every_purifier_has_its_card(name: str, tmp_path: Path) -> None:
    (card,) = defense_cards(Contents(Store.open(tmp_path), {}, {}, 0, ""), [name])
    assert card.needs == TRAINING_PAIRS
    assert len(card.about[0]) > 20
