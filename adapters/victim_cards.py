"""Cards of poisoned models: inside a checkpoint that we wrote, or in a file beside any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from invertune_plugin.adapters.class_sets import CLASS_SETS, TEMPLATE_SETS, templates
from invertune_plugin.attacks.card import CARD_ENTRY, VictimCard, parse_card
from invertune_plugin.checkpoints import SUFFIXES, read_card
from invertune_plugin.config import read_yaml
from invertune_plugin.errors import InputError
from invertune_plugin.files import write_text

CARD_SUFFIX = ".card.yaml"
TRIGGER_SUFFIX = ".trigger.safetensors"
MOST_BYTES = 1 << 20


def read_victim_card(path: str | Path) -> VictimCard:
    """Read a card; it is untrusted, like the checkpoint it describes.

    Args:
        path: a YAML or JSON file; or a checkpoint, whose card is inside (``save_clip`` with
            ``{"victim": card.as_dict()}``) or beside it (``NAME.card.yaml``). In a file,
            ``class_names`` and ``templates`` may be the name of a set, such as ``imagenet``.

    Raises:
        InputError: there is no card, it is too large, or it is none.
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        return _card(_read_file(path), str(path))
    inside = read_card(path).get(CARD_ENTRY)
    if isinstance(inside, Mapping):
        return _card(inside, f"the card inside {path}")
    beside = card_beside(path)
    if inside is None and beside.is_file():
        return _card(_read_file(beside), str(beside))
    raise InputError(
        f"Expected a victim's card inside {path} or in {beside.name} beside it, got "
        f"{'none' if inside is None else repr(inside)[:80]}. Write one; docs/victims.md has an "
        "example."
    )


def write_victim_card(path: str | Path, card: VictimCard, overwrite: bool = False) -> None:
    """Write a card as YAML.

    Args:
        path: the card's file, for instance ``card_beside(checkpoint)``.
        card: what to write.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists or the folder is not writable.
    """
    write_text(path, yaml.safe_dump(card.as_dict(), sort_keys=False, allow_unicode=True), overwrite)


def card_beside(checkpoint: str | Path) -> Path:
    """Where the card of a foreign checkpoint lies: ``x.card.yaml`` beside ``x.pt``."""
    return Path(checkpoint).with_suffix(CARD_SUFFIX)


def trigger_beside(checkpoint: str | Path) -> Path:
    """Where the tensors of a victim's trigger lie: ``x.trigger.safetensors`` beside ``x.pt``."""
    return Path(checkpoint).with_suffix(TRIGGER_SUFFIX)


def _read_file(path: Path) -> dict[str, Any]:
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise InputError(
            f"Expected a card of at most {MOST_BYTES} bytes, got {path} of {path.stat().st_size}. "
            "Check that this is the card."
        )
    return read_yaml(path)


def _card(values: Mapping[str, Any], where: str) -> VictimCard:
    values = dict(values)
    for name, known in (("class_names", CLASS_SETS), ("templates", TEMPLATE_SETS)):
        if isinstance(values.get(name), str):
            values[name] = _named(values[name], known, f"{where}, {name}")
    card = parse_card(values, where)
    templates(card.templates)
    return card


def _named(name: str, known: Mapping[str, Sequence[str]], where: str) -> list[str]:
    """A set by name; never a file, as a card must not make us open files."""
    if name not in known:
        raise InputError(
            f"Expected a list or one of {', '.join(known)} in {where}, got {name[:80]!r}. Write "
            "the list."
        )
    return list(known[name])
