"""Folders in the form that the toolbox's attacks demand of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import transforms
from torchvision.datasets import CIFAR10, MNIST, DatasetFolder

from invertune_plugin.adapters.images import open_rgb
from invertune_plugin.adapters.verified import EXTENSIONS
from invertune_plugin.adapters.writing.folder import CLASSES, write_classes
from invertune_plugin.adapters.writing.replacing import refuse_filled, replacing_folder
from invertune_plugin.data import ImageSet
from invertune_plugin.errors import InputError

LEAST_CLASSES = 5
ACCEPTED = (DatasetFolder, MNIST, CIFAR10)


@dataclass(frozen=True)
class ToolboxData:
    """What an attack gets.

    Attributes:
        train: labelled training images, as ``toolbox_folder`` gives them.
        test: labelled test images of the same classes.
        class_names: name per label.
        image_size: side of the square images.
    """

    train: DatasetFolder
    test: DatasetFolder
    class_names: tuple[str, ...]
    image_size: int


def export_folder(
    dataset: ImageSet, class_names: Sequence[str], root: str | Path, overwrite: bool = False
) -> Path:
    """Write labelled images as PNG files, one folder a class.

    The files are ``root/<label>-<name>/<index>.png`` with zeros in front, so that sorting keeps our
    labels: ``003-cat/0017.png`` is item 17 of the data set. Poisoned data sets of the toolbox read
    the folder again, so a part of a data set needs a folder of its own: export a ``data.Subset``.
    ``root`` is complete or absent, whenever the export ends.

    Args:
        dataset: images ``uint8 [3, H, W]`` with labels from 0 to K - 1.
        class_names: name per label; every class needs an image, or labels would move up.
        root: the folder to make.
        overwrite: replace an earlier export.

    Returns:
        ``root``.

    Raises:
        InputError: ``root`` holds files already (with ``overwrite``: others than an export), a
            label is out of range, a class has no image, or the disk refuses.
    """
    root = Path(root)
    refuse_filled(root, overwrite, CLASSES, "export_folder")
    with replacing_folder(root) as partial:
        write_classes(dataset, class_names, partial)
    return root


def load_rgb(path: str) -> Image.Image:
    """The loader that the attacks need: exactly a ``PIL.Image.Image``, in RGB."""
    return open_rgb(Path(path))


def toolbox_folder(root: str | Path, image_size: int | None = None) -> DatasetFolder:
    """A folder of class folders as the attacks want it: exact type, ``Compose``, plain loader.

    Args:
        root: the folder, for instance of ``export_folder``.
        image_size: resize the shorter side and crop the centre, as open_clip does; None leaves the
            images as they are (LabelConsistent needs this, its own images are arrays).

    Returns:
        A ``DatasetFolder`` of ``(float [3, H, W] in [0, 1], label)``.

    Raises:
        InputError: there are no class folders with images.
    """
    resize = [] if image_size is None else _fitting(image_size)
    transform = transforms.Compose([*resize, transforms.ToTensor()])
    try:
        return DatasetFolder(str(root), load_rgb, extensions=EXTENSIONS, transform=transform)
    except FileNotFoundError as error:
        raise InputError(
            f"Expected class folders with images in {root}, got: {error} "
            "Check the path, or write the folder with export_folder."
        ) from error


def trigger_index(dataset: Any, as_tensor: bool = False) -> int:
    """Where an attack shall put its trigger among the steps of a data set's transform.

    Args:
        dataset: its ``transform`` is a ``Compose`` with a ``ToTensor``.
        as_tensor: for triggers that work on tensors in [0, 1] (AdaptivePatch): behind the tensor
            step instead of before it.

    Returns:
        The value of ``poisoned_transform_index`` and its like: after resizing, before the tensor.

    Raises:
        InputError: the transform is no ``Compose`` or never makes a tensor.
    """
    steps = getattr(dataset.transform, "transforms", [])
    kinds = (transforms.ToTensor, transforms.PILToTensor)
    index = next((i for i, step in enumerate(steps) if isinstance(step, kinds)), None)
    if index is None:
        raise InputError(
            f"Expected a transform that is a Compose with ToTensor, got {dataset.transform}. "
            "Build the data set with toolbox_folder."
        )
    return index + as_tensor


def check_dataset(dataset: Any) -> None:
    """Check that the toolbox's attacks will take a data set, and take all of it.

    Raises:
        InputError: another type than exactly ``DatasetFolder``, ``MNIST`` or ``CIFAR10``; a
            transform that is no ``Compose``; fewer than five classes; a loader of another image
            type; or a folder that holds other files than the data set.
    """
    if type(dataset) not in ACCEPTED:
        raise InputError(
            "Expected exactly a DatasetFolder, MNIST or CIFAR10, got "
            f"{type(dataset).__name__}. The attacks compare types and refuse subclasses and "
            "subsets: use toolbox_folder, and write a subset to a folder of its own with "
            "export_folder(image_set_of(subset), ...)."
        )
    for name in ("transform", "target_transform"):
        step = getattr(dataset, name)
        if not isinstance(step, transforms.Compose) and (step is not None or name == "transform"):
            raise InputError(
                f"Expected {name} to be a Compose, got {type(step).__name__}. The attacks insert "
                "their own step into its list: wrap it in torchvision.transforms.Compose([...])."
            )
    if len(dataset.classes) < LEAST_CLASSES:
        raise InputError(
            f"Expected at least {LEAST_CLASSES} classes, got {len(dataset.classes)}. "
            "The toolbox always counts the top 5: add classes."
        )
    if isinstance(dataset, DatasetFolder):
        _check_folder(dataset)


def _check_folder(dataset: DatasetFolder) -> None:
    if not dataset.extensions:
        raise InputError(
            "Expected a DatasetFolder with extensions, got one with is_valid_file, which poisoned "
            "data sets forget. Use toolbox_folder."
        )
    try:
        found = dataset.make_dataset(dataset.root, dataset.class_to_idx, dataset.extensions)
    except FileNotFoundError:
        found = []
    if found != dataset.samples:
        raise InputError(
            f"Expected the {len(dataset.samples)} samples to be what is in {dataset.root}, got "
            f"{len(found)} files there. Poisoned data sets read the folder again: write the chosen "
            "samples to a folder of their own with export_folder."
        )
    image = dataset.loader(dataset.samples[0][0])
    if isinstance(image, Image.Image) and (type(image) is not Image.Image or image.mode != "RGB"):
        raise InputError(
            "Expected a loader that returns exactly PIL.Image.Image in RGB, got "
            f"{type(image).__name__} in {image.mode}. Use load_rgb as loader."
        )


def _fitting(size: int) -> list[Any]:
    bicubic = transforms.InterpolationMode.BICUBIC
    return [transforms.Resize(size, bicubic), transforms.CenterCrop(size)]
