"""Class names and prompt templates: by name, from a text file, or as a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import open_clip

from invertune_plugin.adapters.nearest import nearest
from invertune_plugin.errors import InputError
from invertune_plugin.prompt_templates import refuse_templates

CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
GTSRB = (
    "20 km/h speed limit",
    "30 km/h speed limit",
    "50 km/h speed limit",
    "60 km/h speed limit",
    "70 km/h speed limit",
    "80 km/h speed limit",
    "end of 80 km/h speed limit",
    "100 km/h speed limit",
    "120 km/h speed limit",
    "no passing",
    "no passing for trucks",
    "right of way at the next intersection",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "general caution",
    "dangerous curve to the left",
    "dangerous curve to the right",
    "double curve",
    "bumpy road",
    "slippery road",
    "road narrows on the right",
    "road work",
    "traffic signals",
    "pedestrians",
    "children crossing",
    "bicycles crossing",
    "beware of ice or snow",
    "wild animals crossing",
    "end of all speed and passing limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "go straight or right",
    "go straight or left",
    "keep right",
    "keep left",
    "roundabout mandatory",
    "end of no passing",
    "end of no passing for trucks",
)
CLASS_SETS: dict[str, Sequence[str]] = {
    "imagenet": open_clip.IMAGENET_CLASSNAMES,
    "cifar10": CIFAR10,
    "gtsrb": GTSRB,
}
TEMPLATE_SETS: dict[str, Sequence[str]] = {
    "openai": [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES],
    "simple": [template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES],
    "single": ["a photo of a {}."],
}


def class_names(spec: str | Path | Sequence[str]) -> list[str]:
    """The classes of a zero-shot classifier, in label order.

    Args:
        spec: ``"imagenet"``, ``"cifar10"`` or ``"gtsrb"``; a text file with one class a line; or a
            list. A named set is taken as published: ImageNet's has two names twice.

    Raises:
        InputError: the set is unknown, the file cannot be read, or a name is blank, repeated or
            alone.
    """
    if isinstance(spec, str) and spec.lower() in CLASS_SETS:
        return list(CLASS_SETS[spec.lower()])
    names, source = _read(spec, CLASS_SETS, "class set")
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InputError(
            f"Expected every class once in {source}, got repeated: {', '.join(repeated[:5])}. "
            "Give each class a name of its own."
        )
    if len(names) < 2:
        raise InputError(f"Expected two or more classes in {source}, got {names}. Add classes.")
    return names


def templates(spec: str | Path | Sequence[str]) -> list[str]:
    """Prompt templates: format strings with one ``{}`` for the class name.

    Args:
        spec: ``"openai"`` (80), ``"simple"`` (7) or ``"single"``; one format string; a text file
            with one a line; or a list.

    Raises:
        InputError: the set is unknown, the file cannot be read, or a template is not a format
            string with one ``{}``.
    """
    if isinstance(spec, str) and spec.lower() in TEMPLATE_SETS:
        return list(TEMPLATE_SETS[spec.lower()])
    if isinstance(spec, str) and "{" in spec:
        spec = [spec]
    lines, source = _read(spec, TEMPLATE_SETS, "template set")
    refuse_templates(lines, source)
    return lines


def _read(
    spec: str | Path | Sequence[str], known: dict[str, Sequence[str]], what: str
) -> tuple[list[str], str]:
    if isinstance(spec, str | Path):
        lines, source = _lines(Path(spec), known, what), str(spec)
    else:
        lines, source = list(spec), "the list"
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str) or not line.strip():
            raise InputError(
                f"Expected text in every line, got {line!r} in line {number} of {source}. "
                "Remove or fill it."
            )
    return [line.strip() for line in lines], source


def _lines(path: Path, known: dict[str, Sequence[str]], what: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except FileNotFoundError:
        raise InputError(
            f"Expected a {what} ({', '.join(known)}) or a text file, got {str(path)!r}, which is "
            f"neither. Near it: {nearest(path.name, known)}."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"Expected a UTF-8 text file, got {path}: {error}. Save it as plain text, one a line."
        ) from error
