"""Contrastive training of CLIP (Radford et al. 2021), the same on CPU, GPU and several processes.

Equal captions in a batch are not negatives of each other: each distinct caption is encoded once and
images are classified among the distinct captions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from invertune_plugin.batch_norm import shared_statistics
from invertune_plugin.data import Captions, PairSet, to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.modes import channels_last
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.resuming import Stateful, load_state, save_state
from invertune_plugin.zero_shot import ZeroShotClassifier

Report = Callable[[int, int, float], None]
Schedule = Callable[[int, int], float]
MAX_LOGIT_SCALE = math.log(100)
KEPT_CAPTIONS = 200_000


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        epochs: passes over the pairs; not used where ``max_steps`` is set.
        batch_size: pairs per step, over all processes.
        learning_rate: peak of the schedule (AdamW).
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps in which the rate rises linearly; then a cosine to zero.
        max_steps: exactly so many steps, over as many epochs as they take.
        shift: random translation of up to so many pixels.
        flip: mirror half of the images.
        freeze: a tower that is not trained.
        workers: processes that load images, beside each training process.
        seed: of the order of pairs, the choice of captions and the augmentation.
    """

    epochs: int = 5
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: float = 0.2
    max_steps: int | None = None
    shift: int = 0
    flip: bool = False
    freeze: Literal["none", "text", "image"] = "none"
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that no training can take."""
        steps = self.epochs if self.max_steps is None else self.max_steps
        least = {"epochs or max_steps": steps, "shift": self.shift, "workers": self.workers}
        for name, value in {**least, "weight_decay": self.weight_decay}.items():
            if not 0 <= value < math.inf:
                raise InputError(f"Expected {name} of 0 or more, got {value}. Raise it.")
        if self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            raise InputError(
                "Expected batches of one or more and a positive learning rate, got "
                f"{self.batch_size} and {self.learning_rate}. Leave them out for the defaults."
            )
        if not 0 <= self.warmup <= 1:
            raise InputError(
                f"Expected a warm-up share from 0 to 1, got {self.warmup}. Write 0.2 for a fifth "
                "of the steps."
            )


@dataclass(frozen=True)
class Batch:
    """What a penalty sees of a training step, the same in all processes.

    Embeddings are of unit length and have gradients.

    Attributes:
        image_features: embeddings of the images, ``[N, D]``.
        text_features: embeddings of the captions, ``[U, D]``.
        owners: caption of each image, ``[N]`` with values in [0, U).
        scale: logit scale.
        captions: the U distinct captions.
        images: ``[N, 3, H, W]`` in [0, 1], augmented as they were trained on.
        step: steps done before this one.
    """

    image_features: Tensor
    text_features: Tensor
    owners: Tensor
    scale: Tensor
    captions: list[str]
    images: Tensor
    step: int


Penalty = Callable[[Batch], Tensor]


def train_contrastive(
    classifier: ZeroShotClassifier,
    pairs: PairSet,
    config: TrainingConfig,
    *,
    resume_path: Path | None = None,
    report: Report | None = None,
    penalty: Penalty | None = None,
    schedule: Schedule | None = None,
    beside: Mapping[str, Stateful] | None = None,
    processes: Processes = ALONE,
) -> None:
    """Train the CLIP inside a classifier, in place; its class weights are renewed at the end.

    Args:
        classifier: holds model, tokenizer and normalisation; trained on a GPU where it is on one.
        pairs: training pairs; each epoch takes one caption per image.
        config: the recipe.
        resume_path: state after each epoch is kept here, and training goes on from it.
        report: called with (steps done, steps in all, loss) after each step.
        penalty: of each batch, added to the loss.
        schedule: (steps done, steps in all) -> factor on the learning rate, instead of the rise and
            the cosine of ``config.warmup``.
        beside: what else is kept and gone on from, by name, such as a penalty with a state.
        processes: that train together; one of them saves. BatchNorm sees the batch of all.

    Raises:
        InputError: there are no pairs, the processes cannot share a batch, or the state that was
            kept is damaged or cannot be written.
    """
    if len(pairs) == 0:
        raise InputError("Expected image-caption pairs to train on, got none.")
    processes.refuse_uneven(min(config.batch_size, len(pairs)))
    clip, device = classifier.clip, classifier.mean.device
    _freeze(clip, config.freeze)
    groups = _parameter_groups(clip, config)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    per_epoch = len(pairs) // config.batch_size or 1
    steps = config.epochs * per_epoch if config.max_steps is None else config.max_steps
    factor = _one_cycle(steps, config.warmup) if schedule is None else _bound(schedule, steps)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parts: dict[str, Stateful] = {"clip": clip, "optimizer": optimizer, "schedule": rates}
    parts |= beside or {}
    done = load_state(resume_path, **parts)

    @lru_cache(maxsize=KEPT_CAPTIONS)
    def tokens_of(caption: str) -> Tensor:
        return classifier.tokenizer([caption])[0]

    with channels_last(clip.visual), shared_statistics(clip.visual, processes):
        clip.train()
        if config.freeze == "image":
            clip.visual.eval()
        while done < steps:
            epoch, skip = divmod(done, per_epoch)
            for images, captions in _epoch(pairs, config, epoch, skip, processes):
                pixels = to_unit(_augment(images, config, done, processes).to(device))
                inputs = (pixels - classifier.mean) / classifier.std
                encoded = _encoded(clip, inputs, captions, tokens_of, processes)
                loss = contrastive_loss(*encoded[:4])
                if penalty is not None:
                    loss = loss + penalty(Batch(*encoded, processes.gather(pixels), done))
                optimizer.zero_grad()
                loss.backward()
                processes.average(clip.parameters())
                optimizer.step()
                rates.step()
                clip.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
                done += 1
                if report is not None:
                    report(done, steps, float(loss.detach()))
                if done == steps:
                    break
            if processes.is_main:
                save_state(resume_path, done, **parts)
    for parameter in clip.parameters():
        parameter.requires_grad_(True)
    clip.zero_grad(set_to_none=True)
    clip.eval()
    classifier.renew_class_weights()


def contrastive_loss(images: Tensor, texts: Tensor, owners: Tensor, scale: Tensor) -> Tensor:
    """Symmetric contrastive loss in which equal captions are not negatives of each other.

    Args:
        images: unit embeddings ``[N, D]``.
        texts: unit embeddings ``[U, D]`` of the distinct captions.
        owners: caption of each image, ``[N]`` with values in [0, U).
        scale: logit scale.
    """
    logits = scale * images @ texts.T
    among_texts = F.cross_entropy(logits, owners)
    mine = logits.gather(1, owners[:, None]).squeeze(1)
    others = F.one_hot(owners, len(texts)).bool()
    rest = logits.masked_fill(others, -torch.inf).logsumexp(0)[owners]
    among_images = F.softplus(rest - mine).mean()
    return (among_texts + among_images) / 2


def stream(seed: int, number: int, purpose: str = "") -> int:
    """The seed of what is drawn for one step or epoch; another purpose draws other numbers.

    The order of an epoch and the augmentation of a step have no purpose, and so share theirs: the
    measured models were trained like that.
    """
    plain = seed * 100_003 + number
    if not purpose:
        return plain
    digest = hashlib.blake2b(f"{purpose}:{plain}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _encoded(
    clip: Any,
    images: Tensor,
    captions: list[str],
    tokens_of: Callable[[str], Tensor],
    processes: Processes,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str]]:
    """Embeddings of images and distinct captions, owners, scale and captions, of all processes."""
    captions = processes.gather_items(captions)
    place = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    owners = torch.tensor([place[caption] for caption in captions], device=images.device)
    distinct = list(place)
    tokens = torch.stack([tokens_of(caption) for caption in processes.share(distinct)])
    image_features, text_features, scale = clip(images, tokens.to(images.device))[:3]
    image_features = processes.gather(image_features)
    text_features = processes.gather(text_features)[: len(distinct)]
    return image_features, text_features, owners, scale, distinct


def _epoch(
    pairs: PairSet, config: TrainingConfig, epoch: int, skip: int, processes: Processes
) -> Iterator[tuple[Tensor, list[str]]]:
    """This process's share of each batch of an epoch, from batch ``skip`` on."""
    generator = torch.Generator().manual_seed(stream(config.seed, epoch))
    order = torch.randperm(len(pairs), generator=generator)
    choices = torch.randint(2**31, (len(pairs),), generator=generator)
    size = min(config.batch_size, len(pairs))
    share = [processes.share(b.tolist()) for b in order.split(size) if len(b) == size][skip:]
    yield from DataLoader(
        _Indexed(pairs),
        batch_sampler=share,
        collate_fn=_OneCaption(choices),
        num_workers=config.workers,
    )


class _OneCaption:
    """Make a batch of items, with the caption that the epoch has chosen for each."""

    def __init__(self, choices: Tensor) -> None:
        self.choices = choices

    def __call__(self, items: list[tuple[int, Tensor, Captions]]) -> tuple[Tensor, list[str]]:
        captions = [texts[int(self.choices[i]) % len(texts)] for i, _, texts in items]
        return torch.stack([image for _, image, _ in items]), captions


class _Indexed(Dataset[tuple[int, Tensor, Captions]]):
    def __init__(self, pairs: PairSet) -> None:
        self.pairs = pairs

    def __getitem__(self, index: int) -> tuple[int, Tensor, Captions]:
        return (index, *self.pairs[index])


def _augment(images: Tensor, config: TrainingConfig, step: int, processes: Processes) -> Tensor:
    """Random mirror images and translations of ``uint8 [N, 3, H, W]``, edges repeated."""
    count, _, height, width = images.shape
    generator = torch.Generator().manual_seed(stream(config.seed, step))
    total = count * processes.count
    flips = processes.share(torch.rand(total, generator=generator) < 0.5)
    moves = torch.randint(-config.shift, config.shift + 1, (2, total, 1), generator=generator)
    down, right = (processes.share(move) for move in moves)
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    if config.flip:
        columns = torch.where(flips[:, None], width - 1 - columns, columns)
    elif not config.shift:
        return images
    batch = torch.arange(count)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _freeze(clip: Any, tower: str) -> None:
    visual = {id(p) for p in clip.visual.parameters()}
    for parameter in clip.parameters():
        frozen = {"image": id(parameter) in visual, "text": id(parameter) not in visual}
        parameter.requires_grad_(not frozen.get(tower, False))


def _parameter_groups(clip: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices and filters only, as CLIP was trained."""
    trained = [p for p in clip.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _one_cycle(steps: int, warmup: float) -> Callable[[int], float]:
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor


def _bound(schedule: Schedule, steps: int) -> Callable[[int], float]:
    return lambda step: schedule(step, steps)
