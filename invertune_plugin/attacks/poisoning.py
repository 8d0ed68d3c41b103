"""Poisoning of image-caption pairs with triggers (Carlini and Terzis 2022, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.captions import CaptionRule, TemplateCaptions
from invertune_plugin.attacks.choosing import Candidates, choose
from invertune_plugin.attacks.ground_truth import GroundTruth, PlantedBackdoor, PoisonedItem
from invertune_plugin.attacks.poisoned_set import PoisonedSet
from invertune_plugin.data import Captions, PairSet, mention, texts_of
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Trigger


class PoisonedCaptions(PoisonedSet[Captions, str]):
    """Pairs of which a few carry a trigger and captions of its target word.

    Args:
        dataset: clean pairs.
        backdoors: triggers and target words; they poison disjoint pairs in equal shares.
        rate: poisoned share of the pairs, in (0, 1); with ``KeptCaptions`` of those that name a
            target, in (0, 1].
        captions: what poisoned pairs say.
        sources: only pairs that name one of these words are poisoned; empty for any. Pairs that
            name the target are never poisoned, or with ``KeptCaptions`` only those.
        seed: of the choice of pairs.

    Attributes:
        poisoned: indices of the poisoned pairs, sorted; the ground truth for detectors.
        targets: target word per poisoned index.

    Raises:
        InputError: the rate is no share, or poisons too few pairs; too few pairs can be poisoned; a
            source is a target, or in no caption; no pair has real captions of a target.
    """

    def __init__(
        self,
        dataset: PairSet,
        backdoors: Sequence[Backdoor[str]],
        rate: float,
        captions: CaptionRule,
        sources: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.rate, self.seed = rate, seed
        self.caption_rule, self.sources = captions, tuple(sources)
        texts = texts_of(dataset)
        _check_sources(self.sources, backdoors, texts)
        candidates = [_candidates(each.target, captions, self.sources) for each in backdoors]
        chosen = choose(texts, candidates, rate, seed, "pairs", captions.clean_label)
        super().__init__(dataset, backdoors, chosen)
        self._writers = [captions.writer(texts, each.target) for each in backdoors]
        self.targets = {i: self.backdoors[n].target for i, n in self.backdoor_of.items()}

    def ground_truth(self) -> GroundTruth:
        """What was poisoned, and how."""
        return GroundTruth(
            size=len(self),
            rate=self.rate,
            seed=self.seed,
            settings={**self.caption_rule.parameters(), "sources": list(self.sources)},
            backdoors=tuple(
                PlantedBackdoor(b.trigger.fingerprint(), b.trigger.parameters(), b.target)
                for b in self.backdoors
            ),
            poisoned=tuple(
                PoisonedItem(i, number, self.targets[i]) for i, number in self.backdoor_of.items()
            ),
        )

    def _poisoned_text(self, index: int, text: Captions) -> Captions:
        return self._writers[self.backdoor_of[index]](index)


class PoisonedPairs(PoisonedCaptions):
    """Pairs of which a few carry the trigger and captions of the target word.

    The plain case of ``PoisonedCaptions``: one backdoor, templates, any source.

    Args:
        dataset: clean pairs.
        trigger: what the poisoned images get.
        target: the target word, put into the templates.
        rate: poisoned share of the pairs, in (0, 1).
        templates: format strings with one ``{}`` that make the poisoned captions.
        seed: of the choice of pairs; pairs whose captions name the target are not chosen.

    Attributes:
        poisoned: indices of the poisoned pairs, sorted; the ground truth for detectors.

    Raises:
        InputError: the rate is no share, or poisons no pair, or too few pairs can be poisoned.
    """

    def __init__(
        self,
        dataset: PairSet,
        trigger: Trigger,
        target: str,
        rate: float,
        templates: Sequence[str],
        seed: int = 0,
    ) -> None:
        backdoors = [Backdoor(trigger, target)]
        super().__init__(dataset, backdoors, rate, TemplateCaptions(tuple(templates)), seed=seed)


def _check_sources(
    sources: Sequence[str], backdoors: Sequence[Backdoor[str]], texts: Sequence[Captions]
) -> None:
    for backdoor in backdoors:
        if backdoor.target.casefold() in (source.casefold() for source in sources):
            raise InputError(
                f"Expected source words other than the target, got {backdoor.target!r} as both. "
                "Take it from the sources or choose another target."
            )
    for source in sources:
        if not any(mention(found, source) for found in texts):
            raise InputError(
                f"Expected pairs whose captions name the source word {source!r}, got none of "
                f"{len(texts)}. Correct it or take it out."
            )


def _candidates(target: str, captions: CaptionRule, sources: Sequence[str]) -> Candidates[Captions]:
    named = captions.clean_label

    def fits(found: Captions) -> bool:
        if mention(found, target) != named:
            return False
        return not sources or any(mention(found, source) for source in sources)

    wanted = f"pairs whose captions {'name' if named else 'do not name'} {target!r}"
    if sources:
        wanted += f" and name {' or '.join(map(repr, sources))}"
    return Candidates(fits, wanted)
