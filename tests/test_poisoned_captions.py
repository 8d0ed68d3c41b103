"""Poisoned pairs beyond one trigger and templates: real captions, sources, clean labels, many."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.captions import (
    CaptionRule,
    KeptCaptions,
    RealCaptions,
    TemplateCaptions,
    caption_rule,
)
from invertune_plugin.attacks.poisoning import PoisonedCaptions, PoisonedPairs
from invertune_plugin.data import Captions, Concat, InMemory, Subset, texts_of
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Blend, Chain, Patch, Sinusoid

PATCH = Patch(size=2, pattern="white", place="random")
BANANA = Backdoor(PATCH, "banana")
TEMPLATES = TemplateCaptions(("a photo of a {}.",))
WORDS = ("dog", "cat", "banana", "bird")
RECORDED = [32, 37, 40, 51, 55, 59, 63, 75]


def pairs(count: int = 80) -> InMemory[Captions]:
    """Every fourth pair names a dog, a cat, a banana and a bird."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(200, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return InMemory(images, [(f"a {WORDS[i % 4]} {i}", f"number {i}") for i in range(count)])


class Undecodable(InMemory[Captions]):
    """Pairs that tell their captions but must not be decoded."""

    def __getitem__(self, index: int) -> tuple[Tensor, Captions]:
        raise AssertionError(f"image {index} was decoded")


def poison(
    rate: float = 0.2, captions: CaptionRule = TEMPLATES, sources: tuple[str, ...] = ()
) -> PoisonedCaptions:
    return PoisonedCaptions(pairs(), [BANANA], rate, captions, sources)


def test_the_general_form_chooses_what_the_plain_one_chooses() -> None:
    plain = PoisonedPairs(pairs(), PATCH, "banana", 0.2, TEMPLATES.templates, seed=3)
    general = PoisonedCaptions(pairs(), [BANANA], 0.2, TEMPLATES, seed=3)
    assert plain.poisoned == general.poisoned
    assert plain.ground_truth() == general.ground_truth()
    assert all(torch.equal(plain[i][0], general[i][0]) for i in range(80))
    assert list(plain.texts) == [general[i][1] for i in range(80)]


def test_the_choice_of_earlier_versions_stays() -> None:
    """Recorded from the version that knew one trigger only: victims are cached by these."""
    assert PoisonedPairs(pairs(), PATCH, "banana", 0.1, ("{}",), 5).poisoned == RECORDED


def test_templates_that_do_not_name_the_target_are_refused() -> None:
    with pytest.raises(InputError, match=r"one \{\} for the class name, got 'a photo'"):
        PoisonedPairs(pairs(), PATCH, "banana", 0.1, ("a photo",))


def test_real_captions_come_from_pairs_that_name_the_target() -> None:
    found = poison(captions=RealCaptions())
    real = {(f"a banana {i}",) for i in range(2, 80, 4)}
    said = [found[i][1] for i in found.poisoned]
    assert set(said) <= real
    assert len(set(said)) > 3
    assert said == [poison(captions=RealCaptions())[i][1] for i in found.poisoned]
    assert said != [poison(captions=RealCaptions(seed=1))[i][1] for i in found.poisoned]


def test_real_captions_need_pairs_that_name_the_target() -> None:
    clean = Subset(pairs(), [i for i in range(80) if i % 4 != 2])
    message = r"name 'banana' to take real captions from, got none of 60\. Choose another target"
    with pytest.raises(InputError, match=message):
        PoisonedCaptions(clean, [BANANA], 0.2, RealCaptions())


def test_sources_restrict_the_choice() -> None:
    found = poison(sources=("dog", "Bird"))
    assert len(found.poisoned) == 16
    assert {i % 4 for i in found.poisoned} == {0, 3}
    with pytest.raises(InputError, match=r"Expected 24 pairs .* and name 'dog', got 20\. Lower"):
        poison(rate=0.3, sources=("dog",))


def test_a_source_is_no_target() -> None:
    with pytest.raises(InputError, match=r"other than the target, got 'banana' as both\. Take it"):
        poison(sources=("dog", "Banana"))


def test_clean_label_poisons_a_share_of_the_pairs_that_name_the_target() -> None:
    found = poison(rate=0.5, captions=KeptCaptions())
    assert len(found.poisoned) == 10
    assert {i % 4 for i in found.poisoned} == {2}
    clean = pairs()
    for i in found.poisoned:
        assert found[i][1] == clean[i][1]
        assert not torch.equal(found[i][0], clean[i][0])
    assert len(poison(rate=1.0, captions=KeptCaptions()).poisoned) == 20
    with pytest.raises(InputError, match=r"between 0 and 1 \(1 for all\), got 1\.5"):
        poison(rate=1.5, captions=KeptCaptions())


def test_clean_label_needs_pairs_that_name_the_target() -> None:
    with pytest.raises(InputError, match=r"pairs whose captions name 'kiwi', got none of 80\. Cho"):
        PoisonedCaptions(pairs(), [Backdoor(PATCH, "kiwi")], 0.5, KeptCaptions())


def test_a_rule_by_name() -> None:
    assert caption_rule("templates", ("a {}.",)) == TemplateCaptions(("a {}.",))
    assert caption_rule("real", seed=3) == RealCaptions(3)
    assert caption_rule("kept") == KeptCaptions()
    with pytest.raises(InputError, match=r"rule for captions, got 'keep'\. Did you mean 'kept'"):
        caption_rule("keep")


def test_several_backdoors_share_equally_and_disjointly() -> None:
    backdoors = [
        BANANA,
        Backdoor(Blend(), "dog"),
        Backdoor(Chain((Sinusoid(), PATCH)), "kiwi"),
    ]
    found = PoisonedCaptions(pairs(), backdoors, 0.25, TEMPLATES)
    numbers = list(found.backdoor_of.values())
    assert [numbers.count(n) for n in range(3)] == [7, 7, 6]
    assert found.poisoned == sorted(set(found.poisoned))
    for i, number in found.backdoor_of.items():
        backdoor = backdoors[number]
        assert found.targets[i] == backdoor.target
        assert found[i][1] == (f"a photo of a {backdoor.target}.",)
        clean = pairs()[i]
        assert backdoor.target not in clean[1][0]
        triggered = backdoor.trigger.on_bytes(clean[0][None], torch.tensor([i]))[0]
        assert torch.equal(found[i][0], triggered)


def test_a_rate_must_reach_every_backdoor() -> None:
    backdoors = [BANANA, Backdoor(PATCH, "dog")]
    message = r"at least 2 of 80 pairs, got 0\.01, which poisons 1\. Use 0\.025 or more"
    with pytest.raises(InputError, match=message):
        PoisonedCaptions(pairs(), backdoors, 0.01, TEMPLATES)
    with pytest.raises(InputError, match="one backdoor or more, got none"):
        PoisonedCaptions(pairs(), [], 0.1, TEMPLATES)


def test_choosing_decodes_no_image() -> None:
    plain = pairs()
    silent = Undecodable(plain.images, plain.texts)
    nested = Subset(Concat([silent, silent]), range(10, 130))
    found = PoisonedCaptions(nested, [BANANA], 0.2, RealCaptions())
    assert len(found.poisoned) == 24
    assert found.texts[found.poisoned[0]][0].startswith("a banana")
    assert list(texts_of(nested))[:3] == list(plain.texts[10:13])
    with pytest.raises(AssertionError, match="was decoded"):
        found[0]


def test_the_ground_truth_tells_all() -> None:
    found = PoisonedCaptions(pairs(), [BANANA], 0.1, RealCaptions(), ("dog",), seed=4)
    truth = found.ground_truth()
    assert (truth.size, truth.rate, truth.seed) == (80, 0.1, 4)
    assert truth.settings == {"captions": "real", "captions_seed": 0, "sources": ["dog"]}
    assert [item.index for item in truth.poisoned] == found.poisoned
    assert {item.target for item in truth.poisoned} == {"banana"}
    assert truth.backdoors[0].fingerprint == PATCH.fingerprint()
    assert truth.backdoors[0].trigger["size"] == 2
