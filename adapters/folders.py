"""A folder of images, with or without a sub-folder per class."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from invertune_plugin.adapters.folder_names import folder_labels, own_names
from invertune_plugin.adapters.nearest import nearest
from invertune_plugin.adapters.verified import EXTENSIONS, Entry, VerifiedSet
from invertune_plugin.errors import InputError

FEW = 5
_log = logging.getLogger(__name__)


def _files(root: Path) -> Iterator[Path]:
    """Files below a folder without hidden ones; links are followed, but never in a circle."""
    for folder, names, files in os.walk(root, followlinks=True):
        here = Path(folder).resolve()
        names[:] = [
            name
            for name in names
            if not name.startswith(".") and (here / name).resolve() not in (here, *here.parents)
        ]
        yield from (Path(folder, file) for file in files if not file.startswith("."))


class ImageFolderSet(VerifiedSet[int]):
    """All images below a folder, sorted by path; labels come from the first-level sub-folders.

    Args:
        root: the folder; it is searched to any depth.
        size: side of the decoded images in pixels.
        class_names: names that labels count in; the sorted sub-folder names where omitted, without
            the numbers that ``write_folder`` puts in front of them all. A sub-folder belongs to the
            class of its name (case does not count, ``_`` and ``-`` equal a space; also as
            ``write_folder`` names it, and WordNet's names for all of ImageNet); images of other
            sub-folders, and those directly in ``root``, get label -1.
        min_images: fewest readable images to go on with.
        threads: threads of the pass that finds unreadable images.

    Attributes:
        class_names: what the labels mean; empty where there are no sub-folders.
        unnamed: sub-folders that are called like no class.
        unreadable: image files that were skipped.

    Raises:
        InputError: there is no such folder, it holds no images, or too few of them can be read.
    """

    def __init__(
        self,
        root: str | Path,
        size: int,
        class_names: Sequence[str] | None = None,
        min_images: int = 1,
        threads: int = 2,
    ) -> None:
        root = Path(root)
        accepted = f"Accepted: {', '.join(EXTENSIONS)}"
        if not root.is_dir():
            came = "a file" if root.exists() else "nothing there"
            raise InputError(
                f"Expected a folder of images at {root}, got {came}. {accepted}; check the path."
            )
        files = list(_files(root))
        paths = sorted(
            (path for path in files if path.suffix.lower() in EXTENSIONS),
            key=lambda path: path.relative_to(root).parts,
        )
        if not paths:
            raise InputError(
                f"Expected images in {root} or its sub-folders, got {len(files)} files of other "
                f"kinds. {accepted}; check the path or convert the images."
            )
        inside = [path.relative_to(root).parts for path in paths]
        folders = sorted({parts[0] for parts in inside if len(parts) > 1})
        if class_names is None:
            self.class_names, labels = own_names(folders), list(range(len(folders)))
        else:
            self.class_names = list(class_names)
            labels = folder_labels(folders, self.class_names)
        label = dict(zip(folders, labels, strict=True))
        self.unnamed = [name for name in folders if label[name] < 0]
        if 0 < len(self.unnamed) < len(folders):
            told = (f"{name!r} ({nearest(name, self.class_names, 1)}?)" for name in self.unnamed)
            _log.warning(
                "Images of %d of %d sub-folders of %s have no class: %s. Correct the names, or go "
                "on without these images.",
                len(self.unnamed),
                len(folders),
                root,
                ", ".join(islice(told, FEW)),
            )
        entries = [
            Entry(path, label[parts[0]] if len(parts) > 1 else -1)
            for path, parts in zip(paths, inside, strict=True)
        ]
        super().__init__(entries, size, str(root), min_images, threads)
