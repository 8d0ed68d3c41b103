"""Images told apart by their content: the split that keeps measurements honest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from invertune_plugin.data.items import Items, T
from invertune_plugin.data.sets import Subset
from invertune_plugin.errors import InputError


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
