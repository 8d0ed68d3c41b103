"""Test images that all carry a trigger."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.label_rules import LabelRule
from invertune_plugin.data import ImageSet, Texts, texts_of
from invertune_plugin.errors import InputError


class TriggeredImages:
    """Images that all carry a trigger, with the labels that the backdoor leads to.

    The share that is read as these labels is the attack success rate. Images of the target class
    are left out, as are those without a label. An untargeted attack succeeds more often than that:
    wherever the answer is not in ``originals``.

    Args:
        dataset: clean labelled images.
        backdoor: trigger and label rule.

    Attributes:
        indices: of the images in the clean data set, which are also the keys of the trigger.
        originals: clean label per image.

    Raises:
        InputError: no image is left.
    """

    def __init__(self, dataset: ImageSet, backdoor: Backdoor[LabelRule]) -> None:
        self.dataset = dataset
        self.backdoor = backdoor
        labels = texts_of(dataset)
        self.indices = [i for i in range(len(dataset)) if backdoor.target.tests(labels[i])]
        self.originals = [labels[i] for i in self.indices]
        if not self.indices:
            raise InputError(
                f"Expected test images that the {backdoor.target.mode} attack shall change, got "
                f"none of {len(dataset)}. Add labelled images of other classes."
            )

    @property
    def texts(self) -> Sequence[int]:
        """The labels that the backdoor leads to."""
        return Texts(len(self), self._label)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        key = self.indices[index]
        image = self.dataset[key][0]
        triggered = self.backdoor.trigger.on_bytes(image[None], torch.tensor([key]))
        return triggered[0], self._label(index)

    def content_key(self, index: int) -> bytes:
        """The key of the clean image."""
        return self.dataset.content_key(self.indices[index])

    def _label(self, index: int) -> int:
        return self.backdoor.target.label(self.originals[index], self.indices[index])
