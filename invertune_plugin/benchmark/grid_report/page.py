"""The report of a grid: one HTML file that fetches nothing, fits a phone and can be cited."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from invertune_plugin import __version__
from invertune_plugin.benchmark.grid.estimate import duration
from invertune_plugin.benchmark.grid_report.cards import attack_cards, defense_cards
from invertune_plugin.benchmark.grid_report.contents import Contents, Names
from invertune_plugin.benchmark.grid_report.evidence import evidence_of
from invertune_plugin.benchmark.grid_report.measures import (
    TERMS_OF_THE_PAGE,
    in_reading_order,
    is_of_one_trigger,
)
from invertune_plugin.benchmark.grid_report.shares import shares_in
from invertune_plugin.benchmark.grid_report.standings import Standing, complete, points, standings
from invertune_plugin.benchmark.grid_report.tables import NONE, NOT_RUN, GridTable, tables_of
from invertune_plugin.benchmark.grid_report.trouble import doubts, troubles
from invertune_plugin.benchmark.judgement import MOST_LOST
from invertune_plugin.benchmark.report.html import render_page, script, script_hash

ROOM = 8 * 1024 * 1024


@dataclass(frozen=True)
class GridPage:
    """A page and what was left out of it.

    Attributes:
        html: the file.
        cells: how many cells it shows, those that were not run included.
        pictures_left_out: for which there was no room.
    """

    html: str
    cells: int
    pictures_left_out: int


def render_grid(
    title: str, contents: Contents, planned: Sequence[Names] = (), room: int | None = None
) -> GridPage:
    """Render the report of a store. All texts of a store are untrusted and escaped.

    Args:
        title: of the page.
        contents: of the store.
        planned: names of cells that the grid has, in the store or not.
        room: most bytes of pictures; ``ROOM`` where none is given.
    """
    tables = tables_of(contents, planned)
    positions = [position for table in tables for position in table.positions.values()]
    states: Counter[str] = sum((p.states for p in positions), Counter())
    evidence = evidence_of(contents, tables, ROOM if room is None else room)
    measures = in_reading_order(
        name for p in positions for name in p.means if not is_of_one_trigger(name)
    )
    victims = [position for table in tables for position in table.before.values()]
    shown = [*measures, *in_reading_order(name for p in victims for name in p.means)]
    code = script("grid.js")
    created = datetime.now(timezone.utc).isoformat(timespec="minutes")
    ranked = {table.title: standings(table) for table in tables}
    html = render_page(
        "grid.html.j2",
        title=title,
        glance=_glance(contents, tables, states),
        findings=[(t.title, f) for t in tables if (f := _finding(t, ranked[t.title]))],
        clean=NONE,
        points=points,
        tables=tables,
        ranked=ranked,
        shares={key: shares_in(claim.record) for key, claim in contents.claims.items()},
        measures=measures,
        troubles=troubles(tables),
        doubts=doubts(tables),
        older=contents.older,
        attacks=attack_cards(contents, _names(table.attacks for table in tables)),
        defenses=defense_cards(contents, _names(table.defenses for table in tables)),
        definitions={measure.title: measure.meaning for measure in shown} | TERMS_OF_THE_PAGE,
        origins=_origins(contents),
        citation=_citation(title, contents, states, created),
        evidence=evidence.as_json(),
        left_out=len(evidence.left_out),
        script=code,
        script_hash=script_hash(code),
    )
    return GridPage(html, sum(states.values()), len(evidence.left_out))


def _names(groups: Iterable[Sequence[str]]) -> list[str]:
    found = {name for names in groups for name in names}
    return sorted(found, key=lambda name: (name != NONE, name))


def _glance(
    contents: Contents, tables: Sequence[GridTable], states: Counter[str]
) -> dict[str, str]:
    """The few facts a reader looks for first."""
    every = sum(states.values())
    cells = [claim for seeds in contents.cells.values() for claim in seeds.values()]
    done = sum(bool(shares_in(claim.record)) for claim in cells)
    doubtful = sum(bool(claim.doubts) for claim in cells)
    seconds = sum(claim.cost.seconds for claim in contents.claims.values() if claim.cost)
    return {
        "Cells with numbers": f"{done:,} of {every:,}",
        "Failed": f"{states['failed']:,}",
        "Impossible": f"{states['impossible']:,}",
        "Not run": f"{states[NOT_RUN]:,}",
        "Doubtful": f"{doubtful:,}",
        "Attacks": str(len({a for table in tables for a in table.attacks if a != NONE})),
        "Defences": str(len({d for table in tables for d in table.defenses if d != NONE})),
        "Seeds": ", ".join(dict.fromkeys(s for t in tables for s in t.seeds if s)) or "none",
        "Time of all cells": duration(seconds),
    }


def _finding(table: GridTable, rows: Sequence[Standing]) -> str:
    """The result of a table in a sentence; "" where no defence was measured on all its attacks.

    A defence that costs more than ``MOST_LOST`` of the accuracy counts as none: it destroys models.
    """
    full = [row for row in rows if complete(table, row)]
    bare = next((row.asr for row in full if row.defense == NONE), None)
    useful = [row for row in full if row.defense != NONE and (row.ca_change or 0.0) >= -MOST_LOST]
    if not useful:
        return ""
    best = useful[0]
    without = "" if bare is None else f" ({bare:.1%} without defence)"
    lost = "" if best.ca_change is None else f", CA {points(best.ca_change)} points"
    again = "" if best.rebound is None else f", {best.rebound:.1%} after rebound"
    count = f"{best.attacks} attack" + ("s" if best.attacks > 1 else "")
    told = f"{best.defense} leaves the lowest mean ASR over {count}: {best.asr:.1%}{without}"
    costly = [row.defense for row in full[: full.index(best)] if row.defense != NONE]
    worse = f" Lower, at a CA of {100 * MOST_LOST:.0f} points less and more: {', '.join(costly)}."
    return f"{told}{again}{lost}.{worse if costly else ''}"


def _origins(contents: Contents) -> list[tuple[str, int]]:
    """Hardware, versions and commit of all claims, each combination with its count."""
    told = Counter(
        json.dumps({k: v for k, v in c.origin.items() if k != "created"}, indent=1)
        for c in contents.claims.values()
    )
    return told.most_common()


def _citation(title: str, contents: Contents, states: Counter[str], created: str) -> str:
    """A line that tells which numbers these are, wherever the file goes."""
    named = (claim.origin.get("commit") for claim in contents.claims.values())
    commits = sorted({_short(str(commit or "unknown")) for commit in named})
    return (
        f"invertune-plugin {__version__}, report of the grid “{title}”, "
        f"{sum(states.values()):,} cells, commit {', '.join(commits) or 'unknown'}, written "
        f"{created}, fingerprint {contents.fingerprint[:16]}."
    )


def _short(commit: str) -> str:
    """A commit as people cite it; that its code was changed is kept."""
    named, plus, changes = commit.partition("+")
    return named[:7] + plus + changes
