"""A user's own checkpoint, images and trigger, opened and checked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from invertune_plugin.adapters.class_sets import class_names, templates
from invertune_plugin.adapters.datasets import image_set
from invertune_plugin.adapters.open_clip import LoadedClip, load_clip, zero_shot_classifier
from invertune_plugin.benchmark.experiment.models import cache_root
from invertune_plugin.config import parse, read_yaml
from invertune_plugin.console import say
from invertune_plugin.data import ImageSet, Subset, with_labels
from invertune_plugin.devices import pick_device
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate, attack_success_rate, clean_accuracy, refuse_target_only
from invertune_plugin.triggers import Trigger, load_trigger
from invertune_plugin.zero_shot import ZeroShotClassifier


@dataclass(frozen=True)
class Attack:
    """The attacker's trigger and target class, where they are known."""

    trigger: Trigger
    label: int


@dataclass(frozen=True)
class Suspect:
    """A loaded checkpoint and its zero-shot classifier."""

    loaded: LoadedClip
    classifier: ZeroShotClassifier


def open_suspect(
    checkpoint: str,
    model: str | None,
    classes: str | Sequence[str],
    template_set: str | Sequence[str],
    device: str,
    quick_gelu: bool | None,
) -> Suspect:
    """Load a checkpoint as a zero-shot classifier.

    Classes and templates are specs of the command line, or lists to be taken as they are.

    Raises:
        InputError: device, classes, architecture or checkpoint cannot be used.
    """
    place = pick_device(device)
    names = class_names(classes) if isinstance(classes, str) else classes
    texts = templates(template_set) if isinstance(template_set, str) else template_set
    loaded = load_clip(model, checkpoint, quick_gelu=quick_gelu)
    cache = cache_root() / "class-weights"
    return Suspect(loaded, zero_shot_classifier(loaded, names, texts, place, cache))


def open_attack(
    trigger: Path | None, target: str | None, classifier: ZeroShotClassifier
) -> Attack | None:
    """The known attack; None where nothing is known.

    Raises:
        InputError: only one of trigger and target is given, or they cannot be used.
    """
    if trigger is None and target is None:
        return None
    if trigger is None or target is None:
        given = "--trigger" if target is None else "--target"
        raise InputError(
            f"Expected --trigger and --target together, got only {given}. Add the other."
        )
    return Attack(open_trigger(trigger), classifier.class_index(target))


def open_trigger(path: Path) -> Trigger:
    """A trigger from a YAML file, or from what ``save_trigger`` wrote (``.safetensors``).

    Raises:
        InputError: the file holds no trigger.
    """
    if path.suffix.lower() == ".safetensors":
        return load_trigger(path)
    return parse(Trigger, read_yaml(path))  # type: ignore[type-abstract]


def labelled_images(spec: str, classifier: ZeroShotClassifier) -> ImageSet:
    """Images whose class is one of the classifier's; how many others there are is told.

    Raises:
        InputError: no image has such a class.
    """
    images = image_set(spec, classifier.image_size, classifier.class_names)
    known = with_labels(images)
    if not len(known):
        raise InputError(
            f"Expected images labelled with the {len(classifier.class_names)} classes in {spec}, "
            f"got {len(images)} images of none of them. Name the sub-folders (or the labels in the "
            "Parquet file) like the classes."
        )
    if others := len(images) - len(known):
        say(f"left out: {others} of {len(images)} images in {spec}, of none of the classes")
    return known


def unseen(images: ImageSet, seen: ImageSet) -> ImageSet:
    """The images that are not among those already seen, by content.

    Raises:
        InputError: all of them are.
    """
    keys = {seen.content_key(i) for i in range(len(seen))}
    kept = [i for i in range(len(images)) if images.content_key(i) not in keys]
    if not kept:
        raise InputError(
            "Expected test images that the defence does not use, got only images that are also "
            "among --images. Split your images, or leave --test out."
        )
    return Subset(images, kept)


def rates(
    classifier: ZeroShotClassifier, images: ImageSet, attack: Attack | None
) -> dict[str, Rate]:
    """CA and, with a known attack, ASR.

    Raises:
        InputError: all images are of the attacker's class.
    """
    found = {"ca": clean_accuracy(classifier, images)}
    if attack is not None:
        refuse_target_only(images, attack.label, classifier.class_names[attack.label])
        found["asr"] = attack_success_rate(classifier, images, attack.trigger, attack.label)
    return found
