"""Data sets: what they are, parts and joins of them, captions from labels, honest splits."""

from invertune_plugin.data.captions import ClassCaptions, mention
from invertune_plugin.data.items import (
    Captions,
    ImageSet,
    Items,
    PairSet,
    Texts,
    batches,
    texts_of,
    to_unit,
)
from invertune_plugin.data.sets import (
    Concat,
    InMemory,
    Replaced,
    Subset,
    in_memory,
    with_labels,
)
from invertune_plugin.data.splits import content_sha256, split_by_content

__all__ = [
    "Captions",
    "ClassCaptions",
    "Concat",
    "ImageSet",
    "InMemory",
    "Items",
    "PairSet",
    "Replaced",
    "Subset",
    "Texts",
    "batches",
    "content_sha256",
    "in_memory",
    "mention",
    "split_by_content",
    "texts_of",
    "to_unit",
    "with_labels",
]
