"""Charts of a repair, as SVG that fits light and dark pages.

Each chart is one narrow panel, so that a page can set panels side by side or, on a phone, one below
the other. Inks are mid-contrast, readable on white and on black, and a media rule inside each SVG
lifts them where the page is dark; bars keep their hue in both.
"""

from __future__ import annotations

import base64
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from invertune_plugin.defenses.invertune.target import Candidate
from invertune_plugin.defenses.invertune.units import CriticalUnits

WIDTH = 4.0
MOST_BARS = 12
LETTER = 0.029
INK, INK_DARK = "#6b7280", "#aeb6c2"
GRID, GRID_DARK = "#d5d9e0", "#363c47"
SUSPECT, PLAIN, SECOND = "#dd5140", "#8d97a6", "#3d84f0"
STYLE = (
    f"<style>:root{{--ink:{INK};--grid:{GRID}}}@media (prefers-color-scheme:dark)"
    f"{{:root{{--ink:{INK_DARK};--grid:{GRID_DARK}}}}}</style>"
)
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "invertune",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Picture:
    """An image ready for ``<img>``.

    Attributes:
        src: data URI.
        alt: what it shows, for those who cannot see it.
        caption: what it is.
    """

    src: str
    alt: str
    caption: str


def target_ranking(candidates: Sequence[Candidate], found: int | None = None) -> list[Picture]:
    """The cost of reaching each class, where it was measured, and its gain under perturbation.

    Args:
        candidates: most suspicious first; the first twelve are drawn.
        found: label to highlight; none where no class stood out.
    """
    shown = list(candidates[:MOST_BARS])
    if not shown:
        return []
    costed = [c for c in shown if math.isfinite(c.cost)]
    panels = []
    if costed:
        told = [f"{c.cost:.4f} ({c.reached:.0%})" for c in costed]
        panels.append(
            Picture(
                _bars(
                    [c.name for c in costed],
                    [c.cost for c in costed],
                    told,
                    [SUSPECT if c.label == found else PLAIN for c in costed],
                    "root mean square (images reached)",
                ),
                _spoken("Cost of reaching each class", [c.name for c in costed], told),
                "Cost of reaching each class from everywhere: lower is more suspicious.",
            )
        )
    told = [f"{c.shift:+.1%}".replace("-", "−") for c in shown]
    panels.append(
        Picture(
            _bars(
                [c.name for c in shown],
                [100 * c.shift for c in shown],
                told,
                [SUSPECT if c.label == found else PLAIN for c in shown],
                "percentage points of all predictions",
            ),
            _spoken("Gain in predictions", [c.name for c in shown], told),
            "Gain in predictions under one universal perturbation, P_adv − P_clean.",
        )
    )
    return panels


def tuned_units(units: CriticalUnits) -> list[Picture]:
    """Activation change per stage, critical stages highlighted, and channels tuned in these."""
    names = [_short(name) for name in units.scores]
    scores = [f"{score:.3f}" for score in units.scores.values()]
    tuned = units.tuned()
    shares = [chosen / max(count, 1) for chosen, count in tuned.values()]
    told = [
        f"{chosen:,} of {count:,} ({chosen / max(count, 1):.0%})"
        for chosen, count in tuned.values()
    ]
    critical = [_short(name) for name in tuned]
    return [
        Picture(
            _bars(
                names,
                list(units.scores.values()),
                scores,
                [SUSPECT if name in units.aligned else PLAIN for name in units.scores],
                "relative activation change",
            ),
            _spoken("Activation change per stage", names, scores)
            + f" Critical: {', '.join(critical)}.",
            "How much the inverted trigger changes each stage; critical stages in red.",
        ),
        Picture(
            _bars(
                critical,
                [100 * s for s in shares],
                told,
                [SECOND] * len(tuned),
                "share of channels tuned, %",
            ),
            _spoken("Tuned channels per critical stage", critical, told),
            "Channels that were tuned in the critical stages; all others are unchanged.",
        ),
    ]


def loss_curves(
    inversions: Mapping[str, Sequence[float]], tuning: Sequence[float] | None
) -> list[Picture]:
    """Loss after each update, as it was and smoothed.

    Args:
        inversions: losses of each inverted trigger, by the name of its class.
        tuning: losses of the repair; None where nothing was tuned.
    """
    panels = []
    if inversions:
        panels.append(_curves("Inversion", inversions))
    if tuning:
        panels.append(_curves("Repair", {"repair": tuning}))
    return panels


def _curves(title: str, curves: Mapping[str, Sequence[float]]) -> Picture:
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
        axes = _axes(figure)
        axes.spines["bottom"].set_visible(False)
        axes.grid(axis="y", color=GRID, linewidth=0.7)
        for colour, (name, losses) in zip(
            cycle((SUSPECT, SECOND, PLAIN)), curves.items(), strict=False
        ):
            values = np.asarray(losses, dtype=float)
            steps = np.arange(1, len(values) + 1)
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.9)
            window = max(1, len(values) // 15)
            mean = np.convolve(values, np.ones(window) / window, mode="valid")
            axes.plot(
                steps[window // 2 :][: len(mean)],
                mean,
                color=colour,
                linewidth=1.8,
                label=_label(name),
            )
        every = np.concatenate([np.asarray(losses, dtype=float) for losses in curves.values()])
        every = every[np.isfinite(every)]
        if len(every) and every.min() > 0 and every.max() > 20 * every.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        axes.set_xlabel("update")
        axes.set_ylabel("loss")
        if len(curves) > 1:
            axes.legend(frameon=False, labelcolor=INK)
        told = [f"{losses[0]:.3g} to {losses[-1]:.3g}" for losses in curves.values()]
        return Picture(
            _svg(figure),
            _spoken(f"{title} loss, first to last update", list(curves), told),
            f"{title}: loss after each update, and its running mean.",
        )


def _bars(
    names: Sequence[str],
    values: Sequence[float],
    told: Sequence[str],
    colours: Sequence[str],
    unit: str,
) -> str:
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, 0.62 + 0.3 * len(names)), layout="constrained")
        axes = _axes(figure)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.axvline(0, color=GRID, linewidth=1)
        axes.set_xticks([])
        places = np.arange(len(names))
        axes.barh(places, values, height=0.62, color=colours)
        axes.set_yticks(places, labels=[_label(name) for name in names])
        axes.invert_yaxis()
        high, low = max(*values, 0.0), min(*values, 0.0)
        span = (high - low) or 1.0
        room = min(0.6, max(map(len, told)) * LETTER)
        axes.set_xlim(low - 0.03 * span * (low < 0), high + span * room / (1 - room))
        for place, value, label in zip(places, values, told, strict=True):
            axes.text(max(value, 0.0) + 0.02 * span, place, label, va="center")
        axes.set_xlabel(unit)
        return _svg(figure)


def _axes(figure: Figure) -> Any:
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", length=0)
    axes.set_axisbelow(True)
    return axes


def _svg(figure: Figure) -> str:
    """The figure as a data URI, its inks as variables of a style sheet inside it."""
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    drawn = re.sub(r"font-family: [^;]+;", "font-family: system-ui, sans-serif;", drawn)
    opened = drawn.index(">") + 1
    content = drawn[:opened] + STYLE + drawn[opened:]
    return "data:image/svg+xml;base64," + base64.b64encode(content.encode()).decode()


def _spoken(title: str, names: Sequence[str], told: Sequence[str]) -> str:
    return f"{title}: " + "; ".join(f"{n} {t}" for n, t in zip(names, told, strict=True)) + "."


def _short(stage: str) -> str:
    return ".".join(stage.split(".")[-2:])


def _label(name: str) -> str:
    """A class name that XML can hold and an axis can bear."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return clean if len(clean) <= 16 else f"{clean[:15]}…"
