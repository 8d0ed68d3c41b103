from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from invertune_plugin.passes import Call, Work, bare_seconds, count_passes

FORWARD, TO_INPUT = Call(4), Call(4, backward=True)
TO_WEIGHTS = Call(4, backward=True, trained=frozenset({"1.bias"}))


def toy_encoder() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))


def frozen(encoder: nn.Sequential, trained: tuple[str, ...] = ()) -> nn.Sequential:
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in trained)
    return encoder


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 2, 2)


def only_forward(encoder: nn.Module) -> None:
    encoder(images())


def without_gradients(encoder: nn.Module) -> None:
    with torch.no_grad():
        encoder(images())


def back(encoder: nn.Module) -> None:
    encoder(images().requires_grad_()).sum().backward()


@pytest.mark.parametrize(
    ("trained", "work", "call", "passes"),
    [
        (("1.bias",), without_gradients, FORWARD, 4),
        (("1.bias",), only_forward, FORWARD, 4),
        ((), only_forward, FORWARD, 4),
        ((), back, TO_INPUT, 12),
        (("1.bias",), back, TO_WEIGHTS, 12),
    ],
)
def test_one_call_of_each_kind(
    trained: tuple[str, ...], work: Callable[[nn.Module], None], call: Call, passes: int
) -> None:
    encoder = frozen(toy_encoder(), trained)
    with count_passes(encoder) as counted:
        work(encoder)
    assert +counted.calls == {call: 1}
    assert counted.passes == passes


def test_calls_add_up_by_kind_and_size() -> None:
    encoder = frozen(toy_encoder())
    with count_passes(encoder) as work:
        for _ in range(3):
            back(encoder)
        only_forward(encoder)
        encoder(images(7))
    assert +work.calls == {TO_INPUT: 3, FORWARD: 1, Call(7): 1}
    assert work.passes == 3 * 3 * 4 + 4 + 7


def test_counting_changes_no_result() -> None:
    encoder, batch = toy_encoder(), images()
    encoder(batch).square().sum().backward()
    expected = [p.grad for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()
    with count_passes(encoder):
        encoder(batch).square().sum().backward()
    found = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert len(found) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_nothing_is_counted_before_and_after() -> None:
    encoder = toy_encoder()
    only_forward(encoder)
    with count_passes(encoder) as work:
        pass
    only_forward(encoder)
    assert work.passes == 0


def test_counting_ends_with_an_exception() -> None:
    encoder = toy_encoder()
    with pytest.raises(KeyError), count_passes(encoder) as work:
        raise KeyError
    only_forward(encoder)
    assert work.passes == 0


def test_copies_count_too() -> None:
    encoder = frozen(toy_encoder())
    with count_passes(encoder) as work:
        back(copy.deepcopy(encoder))
        only_forward(encoder)
    assert work.passes == 12 + 4


def test_copies_do_not_count_afterwards() -> None:
    encoder = toy_encoder()
    with count_passes(encoder) as work:
        twin = copy.deepcopy(encoder)
    only_forward(twin)
    assert work.passes == 0


def test_copies_can_be_pickled_afterwards() -> None:
    encoder = toy_encoder()
    with count_passes(encoder):
        twin = copy.deepcopy(encoder)
    loaded = pickle.loads(pickle.dumps(twin))
    assert torch.equal(loaded[1].weight, encoder[1].weight)


def seen(*calls: Call) -> Work:
    work = Work()
    work.calls.update(calls)
    return work


@pytest.mark.parametrize("call", [FORWARD, TO_INPUT, TO_WEIGHTS])
def test_bare_seconds_leave_the_encoder_untouched(call: Call) -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    call = Call(call.size, call.backward, frozenset({"3.bias"} if call.trained else ()))
    encoder[0].weight.requires_grad_(False)
    encoder.train()
    before = copy.deepcopy(encoder.state_dict())
    assert bare_seconds(encoder, seen(call), 2, repeats=1) > 0
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert encoder.training
    assert all(p.grad is None for p in encoder.parameters())
    assert [p.requires_grad for p in encoder.parameters()] == [False, *[True] * 5]


def test_no_calls_take_no_time() -> None:
    assert bare_seconds(toy_encoder(), seen(), 2) == 0


class Sleeps(nn.Linear):
    def forward(self, batch: Tensor) -> Tensor:
        time.sleep(0.001 * len(batch))
        return super().forward(batch.flatten(1))


def test_bare_seconds_are_mean_times_count() -> None:
    """3 x 2 images + 1 x 5 images, 1 ms an image; the pause is real, so only slower is possible."""
    work = seen(Call(2), Call(2), Call(2), Call(5))
    seconds = bare_seconds(Sleeps(12, 2), work, 2, repeats=4)
    assert 0.011 <= seconds <= 0.5
