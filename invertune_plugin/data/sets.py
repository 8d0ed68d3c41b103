"""Data sets made of tensors and of other data sets; nothing is decoded until it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic

import torch
from torch import Tensor

from invertune_plugin.data.items import Items, T, Texts, texts_of
from invertune_plugin.errors import InputError


class InMemory(Generic[T]):
    """A data set held in memory.

    Args:
        images: ``uint8 [N, 3, H, W]``.
        texts: N labels or N tuples of captions.
        key_of: content key by index, where the images were decoded from something else.
    """

    def __init__(
        self, images: Tensor, texts: Sequence[T], key_of: Callable[[int], bytes] | None = None
    ) -> None:
        if len(images) != len(texts):
            raise InputError(
                f"Expected one text per image, got {len(images)} images and {len(texts)} texts. "
                "Leave out those without a partner."
            )
        self.images = images
        self.texts = texts
        self.key_of = key_of

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, T]:
        return self.images[index], self.texts[index]

    def content_key(self, index: int) -> bytes:
        """The key of what the image was decoded from, or its pixels."""
        if self.key_of is not None:
            return self.key_of(index)
        return self.images[index].numpy().tobytes()


def in_memory(dataset: Items[T]) -> InMemory[T]:
    """A copy of a data set with all its images decoded; it falls into the same splits.

    Raises:
        InputError: the data set is empty.
    """
    if not len(dataset):
        raise InputError("Expected one item or more, got an empty data set. Add images.")
    items = [dataset[i] for i in range(len(dataset))]
    images = torch.stack([image for image, _ in items])
    return InMemory(images, [text for _, text in items], dataset.content_key)


class Subset(Generic[T]):
    """Some items of a data set, by index; decodes nothing until asked."""

    def __init__(self, dataset: Items[T], indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, T]:
        return self.dataset[self.indices[index]]

    @property
    def texts(self) -> Sequence[T]:
        """Labels or captions of the chosen items."""
        known = texts_of(self.dataset)
        return Texts(len(self), lambda index: known[self.indices[index]])

    def content_key(self, index: int) -> bytes:
        """The key of the underlying item."""
        return self.dataset.content_key(self.indices[index])


def with_labels(dataset: Items[int]) -> Items[int]:
    """The images of a data set whose label is known; none of them is decoded for that."""
    labels = texts_of(dataset)
    known = [i for i, label in enumerate(labels) if label >= 0]
    return dataset if len(known) == len(labels) else Subset(dataset, known)


class Replaced(Generic[T]):
    """A data set of which some images are others; texts and keys stay.

    Args:
        dataset: the items.
        images: the other images, ``uint8 [3, H, W]``, by index.
    """

    def __init__(self, dataset: Items[T], images: Mapping[int, Tensor]) -> None:
        self.dataset = dataset
        self.images = images

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, T]:
        index = range(len(self))[index]
        if index in self.images:
            return self.images[index], self.texts[index]
        return self.dataset[index]

    @property
    def texts(self) -> Sequence[T]:
        """Labels or captions, as they were."""
        return texts_of(self.dataset)

    def content_key(self, index: int) -> bytes:
        """The key of the underlying item."""
        return self.dataset.content_key(index)


class Concat(Generic[T]):
    """Several data sets, one behind the other."""

    def __init__(self, parts: Sequence[Items[T]]) -> None:
        self.parts = parts
        self.places = [(part, i) for part in parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, T]:
        part, i = self.places[index]
        return part[i]

    @property
    def texts(self) -> Sequence[T]:
        """Labels or captions, one part behind the other."""
        known = {id(part): texts_of(part) for part in self.parts}

        def read(index: int) -> T:
            part, i = self.places[index]
            return known[id(part)][i]

        return Texts(len(self), read)

    def content_key(self, index: int) -> bytes:
        """The key of the underlying item."""
        part, i = self.places[index]
        return part.content_key(i)
