"""Tables of purifiers: sets of labelled images, and the pairs of CLIP victims."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from rendering import Rows, crossed, distinct, markdown, mean, only, read, spread


def labelled(training: Mapping[str, Any], *purifiers: str) -> Callable[[], str]:
    """Table of purifiers of labelled sets: a line per data set and attack, means over seeds.

    The seeds that are named are those of the first purifier.

    Args:
        training: fields of the rows that say how the networks were trained.
        purifiers: a column each.
    """

    def made() -> str:
        rows = once(read("flare", measure="purify", **training))
        lines = []
        for data in distinct(rows, "data"):
            found = only(rows, data=data)
            told = crossed(found, "attack", none_first(found), "defense", purifiers, searched)
            for name, *cells in told:
                same = only(found, attack=name)
                first = only(same, defense=purifiers[0])
                seeds = ", ".join(map(str, sorted({row["seed"] for row in first})))
                lines.append([data, name, seeds, victim(same), *cells])
        head = ["data", "attack", "seeds", "CA / ASR", *(short(name) for name in purifiers)]
        return markdown(head, lines)

    return made


SEARCH = ("data", "tower", "attack", "defense", "seed", "images", "epochs", "poisoned_rate")
"""What tells searches apart."""
PUBLISHED = "confirmed: false, clusters: {least_share: 0, persistence: 1}, most_of_classes: 1"
BOUNDS = {
    "our bounds": "flare",
    "published bounds": f"flare {{least_late: 0, {PUBLISHED}, subspace: {{least_layers: 1}}}}",
}
"""FLARE with our bounds of a split, and without any beyond the published ones."""
SELECTIONS = {
    "adaptive": "flare",
    "fixed, half of the layers": "flare {subspace: {dropped: 10, selection: fixed}}",
    "none": "flare {subspace: {selection: none}}",
    "published bounds, adaptive": f"flare {{{PUBLISHED}, subspace: {{least_layers: 1}}}}",
    "published bounds, none": f"flare {{{PUBLISHED}, subspace: {{selection: none}}}}",
}
"""Selections of layers; rows of before ``least_late``, without which the published bounds were."""


def variants(training: Mapping[str, Any], names: Mapping[str, str]) -> Callable[[], str]:
    """A purifier and variants of it, on the sets that all variants have searched; seeds' means.

    Args:
        training: fields of the rows that say how the networks were trained.
        names: of purifiers, by the heads of their columns; the default first.
    """

    def made() -> str:
        rows = once(read("flare", measure="purify", **training))
        columns = list(names.values())
        by_all = set.intersection(*(sets_of(only(rows, defense=by)) for by in columns[1:]))
        rows = [row for row in rows if sets_of([row]) <= by_all]
        told = crossed(rows, "attack", none_first(rows), "defense", columns, searched)
        return markdown(["attack", *names], told)

    return made


def clean_sizes(training: Mapping[str, Any], *purifiers: str) -> Callable[[], str]:
    """Clean sets by their size; purifiers in columns.

    Args:
        training: fields of the rows that say how the networks were trained.
        purifiers: a column each.
    """

    def made() -> str:
        rows = once(read("flare", measure="purify", attack="none", **training))
        lines = []
        for images, epochs in sorted({(row["images"], row["epochs"]) for row in rows}):
            same = only(rows, images=images, epochs=epochs)
            cells = [searched(only(same, defense=name)) for name in purifiers]
            seeds = ", ".join(map(str, sorted({row["seed"] for row in same})))
            lines.append([f"{images:,}", str(epochs), seeds, victim(same), *cells])
        return markdown(["images", "epochs", "seeds", "CA", *map(short, purifiers)], lines)

    return made


def once(rows: Rows) -> Rows:
    """One row for each search: rather with a new training than without, rather in float32."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["retrained"], not row["bfloat16"])):
        kept[tuple(row[key] for key in SEARCH)] = row
    return [row for row in rows if kept[tuple(row[key] for key in SEARCH)] is row]


def sets_of(rows: Rows) -> set[tuple[str, str, int]]:
    """The poisoned sets that rows are about."""
    return {(row["data"], row["attack"], row["seed"]) for row in rows}


def victim(rows: Rows) -> str:
    """CA and ASR of the classifiers that were searched, one for each seed."""
    seeds = list({row["seed"]: row for row in rows}.values())
    told = [spread(seeds, "ca_before"), spread(seeds, "asr_before")]
    return " / ".join(filter(None, told))


def trained_again(training: Mapping[str, Any]) -> Callable[[], str]:
    """ASR and CA after training on what a purifier keeps, a line for each new training.

    Args:
        training: fields of the rows that say how the networks were trained.
    """

    def made() -> str:
        rows = once(read("flare", measure="purify", **training))
        again = [row for row in rows if "asr_after" in row]
        lines = []
        for row in sorted(again, key=lambda row: (row["data"], row["attack"], row["defense"])):
            never, cells = never_poisoned(rows, row), []
            for rate in ("asr", "ca"):
                cell = f"{mean([row], f'{rate}_before')} -> {mean([row], f'{rate}_after')}"
                cells.append(cell + (f" ({mean([never], rate)})" if never else ""))
            told = row["data"], row["attack"], str(row["seed"]), short(row["defense"])
            lines.append([*told, searched([row]), *cells])
        head = ["data", "attack", "seed", "purifier", "found"]
        return markdown([*head, "ASR (of a clean training)", "CA (of a clean training)"], lines)

    return made


def never_poisoned(rows: Rows, row: Mapping[str, Any]) -> dict[str, float]:
    """ASR and CA of the network of the same images and seed without poison; empty where not run."""
    for clean in only(rows, attack="none", data=row["data"], seed=row["seed"]):
        if "asr_of" in clean:
            return {"asr": clean["asr_of"][row["attack"]], "ca": clean["ca_before"]}
    return {}


def short(name: str) -> str:
    """The name of a purifier without its options but for the measure."""
    return name.split(" ", maxsplit=1)[0] + (", deviation" if "deviation" in name else "")


def pairs() -> str:
    """Purifiers of pairs of drawn scenes on the victims that FLARE has read, seed 0."""
    rows = [row for row in on_drawn_scenes() if row["seed"] == 0]
    columns = sorted(
        distinct(rows, "defense"), key=lambda name: (not name.startswith("flare"), name)
    )
    lines = []
    for recipe in distinct(rows, "recipe"):
        found = only(rows, recipe=recipe)
        read_by_flare = [row for row in found if row["defense"].startswith("flare")]
        told = crossed(found, "attack", none_first(read_by_flare), "defense", columns, searched)
        lines += [[recipe, *cells] for cells in told]
    return markdown(["model", "attack", *(short(name) for name in columns)], lines)


def directions() -> str:
    """One purifier on all victims of the bench, a column for each model and seed."""
    rows = [
        row | {"model": f"{row['recipe']}, seed {row['seed']}"}
        for row in only(on_drawn_scenes(), defense="directions")
    ]
    models = sorted(distinct(rows, "model"))
    told = crossed(rows, "attack", none_first(rows), "model", models, searched)
    return markdown(["attack", *models], told)


def shares(*recipes: str) -> Callable[[], str]:
    """Purifiers of pairs by the share that is poisoned, a line per model, attack and share."""

    def made() -> str:
        rows = [row for name in recipes for row in read("flare_pairs", recipe=name)]
        columns = sorted(distinct(rows, "defense"))
        lines = []
        for recipe, attack in itertools.product(distinct(rows, "recipe"), none_first(rows)):
            of_victim = only(rows, recipe=recipe, attack=attack)
            for share in sorted(set(map(share_of, of_victim))):
                same = [row for row in of_victim if share_of(row) == share]
                cells = [searched(only(same, defense=name)) for name in columns]
                lines.append([recipe, attack, f"{share} %", victim(same), *cells])
        return markdown(["model", "attack", "poisoned", "CA / ASR", *columns], lines)

    return made


def on_drawn_scenes() -> Rows:
    """Searches of pairs of the victims as their recipes poison them."""
    every = read("flare_pairs", measure="pairs")
    return [row for row in every if row.get("rate") is None and row["recipe"].startswith("demo")]


def share_of(row: Mapping[str, Any]) -> int:
    """Percent of the pairs that are poisoned."""
    return round(100 * row["poisoned"] / row["pairs"])


def speed() -> str:
    """What clustering costs by the number of samples."""
    head = ["samples", "UMAP, s", "HDBSCAN, s", "bytes per sample and layer", "found"]
    keys = ("samples", "seconds_projection", "seconds_tree", "bytes_per_value", "found")
    rows = sorted(read("flare_speed", measure="clustering"), key=lambda row: row["samples"])
    return markdown(head, [[str(row[key]) for key in keys] for row in rows])


def none_first(rows: Rows) -> list[str]:
    """Attacks by name, the clean model at the top."""
    return sorted(distinct(rows, "attack"), key=lambda name: (name != "none", name))


def searched(rows: Rows) -> str:
    """What a search found; on clean data there are false alarms only."""
    if not rows:
        return "not run"
    failed = [row for row in rows if "fpr" not in row]
    if failed:
        share = f" {len(failed)} of {len(rows)}" if len(rows) > 1 else ""
        return f"failed{share}: {failed[0]['reason']}"
    fpr = spread(rows, "fpr")
    if any("tpr" not in row for row in rows):
        return f"FPR {fpr}"
    auroc = sum(row["auroc"] for row in rows) / len(rows)
    return f"{spread(rows, 'tpr')} / {fpr} ({auroc:.3f})"
