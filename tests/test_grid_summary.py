"""Rows over seeds: means, intervals and counts that can be checked by hand."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from grid_cells import NUMBER

from invertune_plugin.benchmark.commands.results import ResultsJob, show_results
from invertune_plugin.benchmark.grid.cells import Cell, Result
from invertune_plugin.benchmark.grid.claims import IMPOSSIBLE, About, Claim, Cost, claim_of
from invertune_plugin.benchmark.grid.export import header_and_cells
from invertune_plugin.benchmark.grid.rows import rows_of
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.benchmark.grid.summary import MIXED, bootstrap, summary
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate


def put(store: Store, seed: int, attack: str = "none", created: str = "", **record: Any) -> None:
    about = About.of(Cell(NUMBER, {"attack": attack, "seed": seed, "made": created}))
    about = About(about.key, about.kind, {"attack": attack, "seed": seed}, {}, ())
    claim = claim_of(about, Result(record), Cost(float(seed)), ())
    if created:
        claim = Claim(
            about, claim.outcome, claim.record, origin=claim.origin | {"created": created}
        )
    store.save(claim)


def rate(name: str, value: float) -> dict[str, Any]:
    return {name: value, f"{name}_low": 0.0, f"{name}_high": 1.0, f"{name}_n": 1000}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A clean model on three seeds; an attack whose third seed failed."""
    made = Store.open(tmp_path / "store")
    for seed, (ca, lost) in enumerate([(0.9, 0.01), (0.8, 0.02), (0.7, 0.06)]):
        alarm = {"false_alarm": seed == 2, "passes": 10 * seed}
        put(made, seed, **rate("ca_after", ca), ca_lost=lost, **alarm)
    put(made, 0, "patch", **rate("ca_after", 0.5), target="star")
    put(made, 1, "patch", **rate("ca_after", 0.7), target="star")
    about = About.of(Cell(NUMBER, {"attack": "patch", "seed": 2}))
    made.mark(Claim(replace(about, settings={}), "failed", reason="no luck"))
    return made


def test_means_intervals_and_counts(store: Store) -> None:
    clean, patch = summary(rows_of(store))
    assert clean["about"] == {"attack": "none", "seeds": "0 1 2"}
    assert clean["ca_after"] == pytest.approx(0.8)
    assert clean["ca_after_n"] == 3, "seeds, not images"
    assert 0.7 <= clean["ca_after_low"] < 0.75
    assert 0.85 < clean["ca_after_high"] <= 0.9
    assert clean["ca_lost"] == pytest.approx(0.03)
    assert clean["seconds"] == 1.0
    assert (clean["passes"], "passes_low" in clean) == (10.0, False)
    low, high = Rate(1, 3).interval
    found = [clean[f"false_alarm{end}"] for end in ("", "_low", "_high", "_n")]
    assert found == [round(1 / 3, 5), round(low, 5), round(high, 5), 3]
    assert patch["outcome"] == "failed 1, ok 2"
    assert (patch["ca_after"], patch["ca_after_n"]) == (0.6, 2)
    assert patch["target"] == "star"
    assert patch["reason"] == ""


def test_seeds_of_different_settings_are_not_reliable_together(tmp_path: Path) -> None:
    made = Store.open(tmp_path / "store")
    for seed, rate_of_parent in enumerate((0.01, 0.01, 0.03)):
        parent = Cell(NUMBER, {"rate": {"of": rate_of_parent}, "seed": seed})
        child = Cell(NUMBER, {"attack": "patch", "seed": seed}, (parent,))
        for cell in (parent, child):
            made.save(claim_of(About.of(cell), Result(rate("asr", 0.5)), Cost(1.0), ()))
    rows = [row for row in rows_of(made) if "attack" in row["about"]]
    assert [found["reliable"] for found in summary(rows[:2])] == [True]
    (mixed,) = summary(rows)
    assert (mixed["reliable"], mixed["reason"]) == (False, MIXED)


def test_marks_of_cells_whose_parent_is_absent_are_not_mixed(tmp_path: Path) -> None:
    made = Store.open(tmp_path / "store")
    for seed in range(2):
        parent = Cell(NUMBER, {"seed": seed})
        if seed == 0:
            made.save(claim_of(About.of(parent), Result(), Cost(1.0), ()))
        child = Cell(NUMBER, {"attack": "patch", "seed": seed, "draw_seed": seed}, (parent,))
        made.mark(Claim(About.of(child), IMPOSSIBLE, reason="no clone"))
    (found,) = summary(row for row in rows_of(made) if "attack" in row["about"])
    assert (found["reliable"], found["reason"]) == (True, "no clone")


def test_the_table_shows_shares_and_no_other_numbers(store: Store) -> None:
    header, cells = header_and_cells(summary(rows_of(store)))
    assert header == [
        "kind", "attack", "outcome", "ca_after", "ca_lost", "false_alarm", "seconds"
    ]  # fmt: skip
    assert cells[1][2:5] == ["failed 1, ok 2", "60.0 [50.0, 70.0]", ""]
    header, cells = header_and_cells(rows_of(store))
    column = header.index("false_alarm")
    assert [line[column] for line in cells] == ["no", "no", "yes", "", "", ""]


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, 4, **rate("asr", 0.25))
    (row,) = summary(rows_of(store))
    assert (row["asr"], row["asr_low"], row["asr_high"], row["asr_n"]) == (0.25, None, None, 1)
    assert header_and_cells([row])[1][0][4] == "25.0"


def test_seeds_are_told_in_order_whichever_ended_first(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for when, seed in enumerate((10, 2, 0)):
        put(store, seed, created=f"2025-01-0{when + 1}", **rate("asr", 0.1))
    (row,) = summary(rows_of(store))
    assert row["about"]["seeds"] == "0 2 10"


def test_of_older_results_the_newest_counts(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    put(store, 0, created="2024-01-01", **rate("asr", 0.9))
    put(store, 0, created="2025-01-01", **rate("asr", 0.1))
    put(store, 1, created="2023-01-01", **rate("asr", 0.3))
    (row,) = summary(rows_of(store))
    assert (row["asr"], row["asr_n"]) == (0.2, 2)


@pytest.mark.parametrize("values", [(0.1, 0.4), (0.2, 0.3, 0.7), (0.0, 0.0, 1.0, 1.0)])
def test_the_bootstrap_is_near_all_resamples(values: tuple[float, ...]) -> None:
    """Of few values all resamples can be counted: n to the power of n of them."""
    means = sorted(fmean(drawn) for drawn in product(values, repeat=len(values)))
    low, high = bootstrap(values) or (0, 0)
    step = (max(values) - min(values)) / len(values)
    assert low == pytest.approx(means[int(0.025 * len(means))], abs=step)
    assert high == pytest.approx(means[int(0.975 * len(means))], abs=step)
    assert bootstrap(values) == bootstrap(values[::-1]), "no matter in which order"


def test_equal_seeds_have_an_interval_of_no_width() -> None:
    assert bootstrap([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert bootstrap([0.5]) is None


def test_a_summary_is_exported(store: Store, tmp_path: Path) -> None:
    files = {form: tmp_path / form for form in ("csv", "latex", "markdown")}
    show_results(ResultsJob(store.root, summary=True, where=("attack=none",), **files))
    with files["csv"].open() as file:
        (row,) = csv.DictReader(file)
    assert (row["seeds"], row["ca_after"], row["ca_after_n"]) == ("0 1 2", "0.8", "3")
    assert "80.0 [" in files["markdown"].read_text()
    assert "80.0 [" in files["latex"].read_text()
    with pytest.raises(InputError, match="either a summary or another store"):
        show_results(ResultsJob(store.root, summary=True, diff=store.root))
