"""Poisoning of labelled images with triggers (BadNets, Gu et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.choosing import Candidates, choose
from invertune_plugin.attacks.ground_truth import GroundTruth, PlantedBackdoor, PoisonedItem
from invertune_plugin.attacks.label_rules import LabelRule
from invertune_plugin.attacks.poisoned_set import PoisonedSet
from invertune_plugin.attacks.triggered import TriggeredImages
from invertune_plugin.data import ImageSet, texts_of
from invertune_plugin.errors import InputError


class PoisonedLabels(PoisonedSet[int, LabelRule]):
    """Labelled images of which a few carry a trigger and the label that its rule makes.

    Args:
        dataset: clean labelled images; those with label -1 are never poisoned.
        backdoors: triggers and label rules; they poison disjoint images in equal shares. Several
            ``AllToOne`` make a multi-target attack.
        rate: poisoned share of the images, in (0, 1); with ``CleanLabel`` of those of the targets,
            in (0, 1].
        seed: of the choice of images.

    Attributes:
        poisoned: indices of the poisoned images, sorted; the ground truth for detectors.
        originals: clean label per poisoned image, in the order of ``poisoned``.
        targets: new label per poisoned index.

    Raises:
        InputError: the rate is no share, or poisons too few images; too few can be poisoned;
            clean-label rules are mixed with others; a label is out of a rule's range.
    """

    def __init__(
        self,
        dataset: ImageSet,
        backdoors: Sequence[Backdoor[LabelRule]],
        rate: float,
        seed: int = 0,
    ) -> None:
        self.rate, self.seed = rate, seed
        rules = [backdoor.target for backdoor in backdoors]
        clean_label = {rule.clean_label for rule in rules}
        if len(clean_label) > 1:
            raise InputError(
                "Expected only clean-label rules or none, got "
                f"{', '.join(rule.mode for rule in rules)}. The rate would mean two things: "
                "poison the data set twice."
            )
        labels = texts_of(dataset)
        candidates = [Candidates(rule.fits, rule.wanted()) for rule in rules]
        chosen = choose(labels, candidates, rate, seed, "images", True in clean_label)
        super().__init__(dataset, backdoors, chosen)
        self.originals = [labels[i] for i in self.poisoned]
        self.targets = {
            i: self._poisoned_text(i, label)
            for i, label in zip(self.poisoned, self.originals, strict=True)
        }

    def ground_truth(self) -> GroundTruth:
        """What was poisoned, and how."""
        return GroundTruth(
            size=len(self),
            rate=self.rate,
            seed=self.seed,
            settings={},
            backdoors=tuple(
                PlantedBackdoor(
                    b.trigger.fingerprint(), b.trigger.parameters(), b.target.parameters()
                )
                for b in self.backdoors
            ),
            poisoned=tuple(
                PoisonedItem(i, self.backdoor_of[i], self.targets[i], original)
                for i, original in zip(self.poisoned, self.originals, strict=True)
            ),
        )

    def test_view(self, dataset: ImageSet, backdoor: int = 0) -> TriggeredImages:
        """Test images that all carry the trigger of one backdoor.

        Args:
            dataset: clean labelled test images.
            backdoor: number of the backdoor.

        Raises:
            InputError: there is no such backdoor, or no image counts for the attack success rate.
        """
        if not 0 <= backdoor < len(self.backdoors):
            raise InputError(
                f"Expected a backdoor from 0 to {len(self.backdoors) - 1}, got {backdoor}. "
                "Name one that was planted."
            )
        return TriggeredImages(dataset, self.backdoors[backdoor])

    def _poisoned_text(self, index: int, text: int) -> int:
        return self.backdoors[self.backdoor_of[index]].target.label(text, index)
