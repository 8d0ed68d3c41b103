"""The forms that a command writes a data set in, and what each of them refuses beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from invertune_plugin.adapters.writing import folder, shards
from invertune_plugin.adapters.writing.folder import write_folder
from invertune_plugin.adapters.writing.parquet import write_parquet
from invertune_plugin.adapters.writing.replacing import refuse_filled
from invertune_plugin.adapters.writing.samples import has_labels, needed_names
from invertune_plugin.adapters.writing.shards import write_shards
from invertune_plugin.adapters.writing.truth import truth_path
from invertune_plugin.data import ImageSet, PairSet, texts_of
from invertune_plugin.errors import InputError
from invertune_plugin.files import refuse_existing


@dataclass(frozen=True)
class Form:
    """A way to write data.

    Attributes:
        write: the writer; its arguments are those of ``write_folder``.
        own: pattern of all paths inside the folder that it writes; None for a file.
        unlabelled: takes images without a label.
        gaps: takes classes without an image.
    """

    write: Callable[..., Path]
    own: str | None = None
    unlabelled: bool = False
    gaps: bool = True


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "folder": Form(write_folder, folder.OWN, gaps=False),
        "parquet": Form(write_parquet, unlabelled=True),
        "webdataset": Form(write_shards, shards.OWN),
    }
)


def refuse_place(form: Form, place: Path, overwrite: bool, command: str) -> None:
    """Check that a command can write data to a place; call it before the work.

    Raises:
        InputError: there is something already; with ``overwrite``, something else than such data.
    """
    if form.own is not None:
        refuse_filled(place, overwrite, form.own, command, "--overwrite")
        return
    for file in (place, truth_path(place)):
        refuse_existing(file, overwrite)


def refuse_labels(
    form: Form, dataset: ImageSet | PairSet, class_names: Sequence[str] | None
) -> None:
    """Check that a form can hold the labels of a data set, where it has any.

    Args:
        form: the form.
        dataset: labelled images or image-caption pairs; no image is decoded where it has ``texts``.
        class_names: name per label.

    Raises:
        InputError: there are no names, an image has no label, or a class has no image.
    """
    if not has_labels(dataset):
        return
    names = needed_names(class_names)
    labels = Counter(texts_of(dataset))
    if -1 in labels and not form.unlabelled:
        raise InputError(
            f"Expected a class for each of {len(dataset)} images, got {labels[-1]} without "
            "one. Put them into folders by class or leave them out, or write parquet."
        )
    empty = [name for label, name in enumerate(names) if label not in labels]
    if empty and not form.gaps:
        raise InputError(
            f"Expected an image of every class for folders by class, got none of "
            f"{', '.join(empty[:8])}. Write parquet or webdataset, or leave these classes out."
        )
