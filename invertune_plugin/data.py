"""What a data set is to this package, and the split that keeps measurements honest.

Images are ``uint8`` tensors ``[3, H, W]``; models and triggers see them as floats in [0, 1].
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, cast, overload

import torch
from torch import Tensor

from invertune_plugin.errors import InputError

Text = TypeVar("Text", covariant=True)


class Items(Protocol[Text]):
    """A map-style data set of ``(uint8 [3, H, W], text)``.

    ``text`` is a label (``int``, -1 where unknown) in an ``ImageSet`` and a tuple of one or more
    captions in a ``PairSet``.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Text]: ...

    def content_key(self, index: int, /) -> bytes:
        """Bytes that are equal for equal images; they decide the split an image falls into."""
        ...


Captions = tuple[str, ...]
ImageSet = Items[int]
PairSet = Items[Captions]
T = TypeVar("T")


class Texts(Sequence[T]):
    """Labels or captions of a data set, each read when it is asked for.

    Args:
        count: how many there are.
        read: the text of an index from 0 to ``count - 1``.
    """

    def __init__(self, count: int, read: Callable[[int], T]) -> None:
        self._indices = range(count)
        self._read = read

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._read(i) for i in self._indices[index]]
        return self._read(self._indices[index])


def texts_of(dataset: Items[T]) -> Sequence[T]:
    """The labels or captions of a data set; where it has ``texts``, no image is decoded."""
    known = getattr(dataset, "texts", None)
    if known is not None:
        return cast("Sequence[T]", known)
    return Texts(len(dataset), lambda index: dataset[index][1])


def with_labels(dataset: Items[int]) -> Items[int]:
    """The images of a data set whose label is known; none of them is decoded for that."""
    labels = texts_of(dataset)
    known = [i for i, label in enumerate(labels) if label >= 0]
    return dataset if len(known) == len(labels) else Subset(dataset, known)


class InMemory(Generic[T]):
    """A data set held in memory.

    Args:
        images: ``uint8 [N, 3, H, W]``.
        texts: N labels or N tuples of captions.
    """

    def __init__(self, images: Tensor, texts: Sequence[T]) -> None:
        if len(images) != len(texts):
            raise InputError(f"Expected one text per image, got {len(images)} and {len(texts)}.")
        self.images = images
        self.texts = texts

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, T]:
        return self.images[index], self.texts[index]

    def content_key(self, index: int) -> bytes:
        """The pixels."""
        return self.images[index].numpy().tobytes()


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
        return self.captions[label]

    def content_key(self, index: int) -> bytes:
        """The key of the underlying image."""
        return self.dataset.content_key(index)


def split_by_content(
    dataset: Items[T], shares: Mapping[str, float], salt: str = ""
) -> dict[str, Subset[T]]:
    """Split a data set into disjoint named parts by the hash of each image's content.

    Equal images always fall into the same part, in every data set that is split with the same
    shares and salt, so that no image reaches both a defence and its evaluation.

    Args:
        dataset: what to split.
        shares: part name -> share in (0, 1]; together at most 1.
        salt: another salt gives another split.

    Raises:
        InputError: the shares are not positive or sum to more than 1.
    """
    if any(share <= 0 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise InputError(
            f"Expected positive shares that sum to at most 1, got {dict(shares)}. Lower them."
        )
    indices: dict[str, list[int]] = {name: [] for name in shares}
    key = hashlib.blake2b(salt.encode()).digest() if salt else b""
    for i in range(len(dataset)):
        digest = hashlib.blake2b(dataset.content_key(i), digest_size=8, key=key).digest()
        point = int.from_bytes(digest, "big") / 2**64
        for name, share in shares.items():
            if point < share:
                indices[name].append(i)
                break
            point -= share
    return {name: Subset(dataset, chosen) for name, chosen in indices.items()}


def content_sha256(dataset: Items[T]) -> str:
    """SHA-256 over the content of all images in order, in hexadecimal."""
    digest = hashlib.sha256()
    for i in range(len(dataset)):
        digest.update(hashlib.sha256(dataset.content_key(i)).digest())
    return digest.hexdigest()


def to_unit(images: Tensor) -> Tensor:
    """Turn ``uint8`` images into floats in [0, 1] (what every model and trigger here works on).

    Raises:
        InputError: they are of another type; floats have been divided by 255 before, it may be.
    """
    if images.dtype != torch.uint8:
        raise InputError(
            f"Expected uint8 images from the data set, got {images.dtype}. Load them with "
            "PILToTensor in place of ToTensor."
        )
    return images.to(torch.float32).div_(255.0)


def batches(dataset: Items[T], batch_size: int) -> Iterator[tuple[Tensor, list[T]]]:
    """Go through a data set in order, as ``(uint8 [B, 3, H, W], B texts)``."""
    for start in range(0, len(dataset), batch_size):
        items = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        yield torch.stack([image for image, _ in items]), [text for _, text in items]


def mention(captions: Captions, word: str) -> bool:
    """Whether any caption holds the word (or words), in any case, but not inside other words."""
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
    return any(pattern.search(caption) for caption in captions)


def in_memory(dataset: Items[T]) -> InMemory[T]:
    """A copy of a data set with all its images decoded."""
    items = [dataset[i] for i in range(len(dataset))]
    return InMemory(torch.stack([image for image, _ in items]), [text for _, text in items])
