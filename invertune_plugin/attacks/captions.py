"""What poisoned pairs say: templates, real captions of the target, or what they said before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from invertune_plugin.attacks.backdoors import drawn
from invertune_plugin.config import named
from invertune_plugin.data import Captions, mention
from invertune_plugin.errors import InputError
from invertune_plugin.prompt_templates import refuse_templates

CaptionWriter = Callable[[int], Captions]


class CaptionRule(ABC):
    """How a poisoned pair gets its captions.

    Attributes:
        kind: name of the rule.
        clean_label: only pairs that name the target already are poisoned.
    """

    kind: ClassVar[str]
    clean_label: ClassVar[bool] = False

    @abstractmethod
    def writer(self, texts: Sequence[Captions], target: str) -> CaptionWriter:
        """A function from the index of a poisoned pair to its captions.

        Args:
            texts: the clean captions of all pairs.
            target: the target word.
        """

    def parameters(self) -> dict[str, Any]:
        """Kind and parameters, as JSON values."""
        return {"captions": self.kind}


@dataclass(frozen=True)
class TemplateCaptions(CaptionRule):
    """The target word in templates (Carlini and Terzis 2022, section 3).

    Attributes:
        templates: format strings with one ``{}``.
    """

    kind: ClassVar[str] = "templates"
    templates: Sequence[str]

    def __post_init__(self) -> None:
        """Refuse templates that do not name the target once."""
        refuse_templates(self.templates)

    def writer(self, texts: Sequence[Captions], target: str) -> CaptionWriter:
        """The same captions for all poisoned pairs."""
        captions = tuple(template.format(target) for template in self.templates)
        return lambda index: captions

    def parameters(self) -> dict[str, Any]:
        """Kind and templates."""
        return {"captions": self.kind, "templates": list(self.templates)}


@dataclass(frozen=True)
class RealCaptions(CaptionRule):
    """Captions of the data set's own pairs that name the target (BadCLIP, Liang et al. 2024).

    Each poisoned pair gets the captions that name the target of one such pair.

    Attributes:
        seed: of the draw of that pair.
    """

    kind: ClassVar[str] = "real"
    seed: int = 0

    def writer(self, texts: Sequence[Captions], target: str) -> CaptionWriter:
        """A draw among the captions that name the target.

        Raises:
            InputError: no pair names the target.
        """
        naming = (tuple(c for c in captions if mention((c,), target)) for captions in texts)
        pool = [captions for captions in naming if captions]
        if not pool:
            raise InputError(
                f"Expected pairs whose captions name {target!r} to take real captions from, got "
                f"none of {len(texts)}. Choose another target, or make captions from templates."
            )
        return lambda index: pool[drawn(index, self.seed, len(pool))]

    def parameters(self) -> dict[str, Any]:
        """Kind and seed."""
        return {"captions": self.kind, "captions_seed": self.seed}


@dataclass(frozen=True)
class KeptCaptions(CaptionRule):
    """Clean-label: pairs that name the target get the trigger, their captions stay."""

    kind: ClassVar[str] = "kept"
    clean_label: ClassVar[bool] = True

    def writer(self, texts: Sequence[Captions], target: str) -> CaptionWriter:
        """The clean captions."""
        return texts.__getitem__


def caption_rule(kind: str, templates: Sequence[str] = (), seed: int = 0) -> CaptionRule:
    """The rule of a name.

    Args:
        kind: ``templates``, ``real`` or ``kept``.
        templates: format strings with one ``{}``; for ``templates``.
        seed: of the draw of captions; for ``real``.

    Raises:
        InputError: there is no such rule, or a template does not name the target once.
    """
    rules: dict[str, Callable[[], CaptionRule]] = {
        TemplateCaptions.kind: lambda: TemplateCaptions(templates),
        RealCaptions.kind: lambda: RealCaptions(seed),
        KeptCaptions.kind: KeptCaptions,
    }
    return named("rule for captions", kind, rules)()
