"""Captions from labels, and words in captions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from invertune_plugin.data.items import Captions, ImageSet, Texts, texts_of
from invertune_plugin.errors import InputError
from invertune_plugin.prompt_templates import refuse_templates


class ClassCaptions:
    """Labelled images as image-caption pairs: each class template gives one caption.

    Args:
        dataset: labelled images.
        class_names: name per label.
        templates: format strings with one ``{}`` for the class name.
    """

    def __init__(
        self, dataset: ImageSet, class_names: Sequence[str], templates: Sequence[str]
    ) -> None:
        refuse_templates(templates)
        self.dataset = dataset
        self.captions = [tuple(t.format(name) for t in templates) for name in class_names]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Captions]:
        image, label = self.dataset[index]
        return image, self._captions(index, label)

    @property
    def texts(self) -> Sequence[Captions]:
        """Captions per image."""
        labels = texts_of(self.dataset)
        return Texts(len(self), lambda index: self._captions(index, labels[index]))

    def _captions(self, index: int, label: int) -> Captions:
        if label < 0:
            raise InputError(
                f"Expected labelled images, got image {index} without a label. Leave such images "
                "out with Subset."
            )
        if label >= len(self.captions):
            raise InputError(
                f"Expected labels below {len(self.captions)}, one for each class name, got {label} "
                f"of image {index}. Name all classes."
            )
        return self.captions[label]

    def content_key(self, index: int) -> bytes:
        """The key of the underlying image."""
        return self.dataset.content_key(index)


def mention(captions: Captions, word: str) -> bool:
    """Whether any caption holds the word (or words), in any case, but not inside other words."""
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
    return any(pattern.search(caption) for caption in captions)
