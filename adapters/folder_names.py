"""Which class the sub-folders of an image folder mean."""

from __future__ import annotations

import re
from collections.abc import Sequence

from invertune_plugin.adapters.class_names import match_names
from invertune_plugin.adapters.class_sets import CLASS_SETS
from invertune_plugin.adapters.writing.samples import legal

NUMBERED = re.compile(r"(\d+)-(.+)")
WORDNET = re.compile(r"n\d{8}")
IMAGENET = list(CLASS_SETS["imagenet"])


def own_names(folders: Sequence[str]) -> list[str]:
    """What the sub-folders of a data set call its classes.

    Those of ``write_folder``, each numbered by its place, go by the names behind the numbers, as
    long as these tell them apart.

    Args:
        folders: names in alphabetical order.
    """
    parts = [NUMBERED.fullmatch(folder) for folder in folders]
    names = [found[2] for i, found in enumerate(parts) if found and int(found[1]) == i]
    return names if len(set(names)) == len(folders) else list(folders)


def folder_labels(folders: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """The class of each sub-folder, -1 where it has none.

    A folder is called like its class, or as ``write_folder`` calls it (number, ``-``, and the name
    without what a file system may refuse). The 1,000 folders of ImageNet, called by WordNet, are
    its classes in their order.

    Args:
        folders: names in alphabetical order.
        class_names: of the model.

    Raises:
        InputError: a folder fits several class names and equals none of them.
    """
    if (
        list(class_names) == IMAGENET
        and len(folders) == len(IMAGENET)
        and all(WORDNET.fullmatch(name) for name in folders)
    ):
        return list(range(len(IMAGENET)))
    found = match_names(folders, class_names)
    return [
        _numbered(folder, class_names) if label < 0 else label
        for folder, label in zip(folders, found, strict=True)
    ]


def _numbered(folder: str, class_names: Sequence[str]) -> int:
    """The class that ``write_folder`` gave a folder; of classes of one name, that of the number."""
    parts = NUMBERED.fullmatch(folder)
    if parts is None:
        return -1
    number, written = int(parts[1]), parts[2]
    fitting = [i for i, name in enumerate(class_names) if legal(name) == written]
    return number if number in fitting else fitting[0] if len(fitting) == 1 else -1
