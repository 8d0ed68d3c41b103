"""Whether the labels of a data set count in the classes of a model."""

from __future__ import annotations

from typing import Any

from invertune_plugin.errors import InputError


def plain(name: str) -> str:
    """A class name without what spellings differ in: case, and ``_`` or ``-`` for a space."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def class_names_of(dataset: Any) -> list[str]:
    """The ``class_names`` or ``classes`` of a data set or of what it is a subset of, or nothing."""
    names = getattr(dataset, "class_names", None) or getattr(dataset, "classes", None)
    inner = getattr(dataset, "dataset", None)
    return list(names) if names else [] if inner is None else class_names_of(inner)


def refuse_other_order(model: Any, dataset: Any) -> None:
    """Refuse labels that mean another class of the model than the data set says.

    Names that only one of the two knows are no hindrance.

    Args:
        model: with ``class_names``; others are not checked.
        dataset: with ``class_names`` or ``classes``, or a subset of such a one; as above.

    Raises:
        InputError: a class of the data set is one of the model's, but at another place.
    """
    wanted = [plain(str(name)) for name in getattr(model, "class_names", ())]
    for label, own in enumerate(class_names_of(dataset)):
        name = plain(str(own))
        if name in wanted and wanted[label : label + 1] != [name]:
            raise InputError(
                f"Expected labels that count in the model's classes, got {own!r} as label {label} "
                f"of the data set, which is class {wanted.index(name)} of the model. Open the data "
                "with class_names=model.class_names, or name the model's classes in the data's "
                "order."
            )
