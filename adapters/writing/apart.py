"""What is written lies elsewhere than what is read."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path

from invertune_plugin.adapters.datasets import named_paths
from invertune_plugin.errors import InputError


def refuse_inputs(outputs: Iterable[Path], *inputs: str | Path | None) -> None:
    """Check that no output replaces an input; call it before the work.

    Args:
        outputs: files and folders that will be written or removed.
        inputs: what is read: a file, or data as ``image_set`` and ``pair_set`` take them. None, and
            names of what is no file (``openai``, ``imagenet``), are in nobody's way.

    Raises:
        InputError: an input is one of the outputs or lies inside it.
    """
    places = [place.resolve() for place in outputs]
    for spec in (each for each in inputs if each):
        for path, place in product(_paths(spec), places):
            if path.resolve().is_relative_to(place):
                raise _not_apart(spec, place)


def refuse_inside_data(spec: str | Path, place: Path) -> None:
    """Check that nothing is added to a folder of data, whose images are found at any depth.

    Args:
        spec: what is read, as ``image_set`` and ``pair_set`` take it.
        place: the file or folder that will be written.

    Raises:
        InputError: ``place`` is the folder that is read, or lies inside it.
    """
    for folder in (Path(spec).expanduser(), *_paths(spec)):
        if folder.is_dir() and place.resolve().is_relative_to(folder.resolve()):
            raise _not_apart(spec, place)


def _paths(spec: str | Path) -> list[Path]:
    try:
        return named_paths(spec)
    except InputError:
        return [Path(spec).expanduser()]


def _not_apart(spec: str | Path, place: Path) -> InputError:
    return InputError(
        f"Expected results that are written elsewhere than their inputs are read, got "
        f"the input {spec} and the result {place}. Choose another --out."
    )
