"""The conformance suite lets a good defence pass and finds every fault of a bad one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_toolbox_defense import defense, resnet, zero_shot
from torch import nn
from torch.utils.data import TensorDataset

from invertune_plugin.adapters.backdoorbox.conformance import Check, checks_for
from invertune_plugin.defenses.base import Defense
from invertune_plugin.metrics import Rate


class Images(TensorDataset):
    """Data with a transform that a bad defence may append to."""

    def __init__(self) -> None:
        super().__init__(torch.rand(8, 3), torch.arange(8) % 2)
        self.samples = [("file", 0)] * 8


class Good(Defense):
    """Moves every weight by a number that the seed decides."""

    def __init__(
        self,
        train_dataset: Any = None,
        model: Any = None,
        schedule: Any = None,
        seed: int = 0,
        deterministic: bool = False,
    ) -> None:
        super().__init__(seed=seed, deterministic=deterministic, schedule=schedule)
        self.train_dataset = train_dataset
        self.model = model

    def repair(self, schedule: Any = None) -> None:
        with self.seeded():
            self.repaired_ = copy.deepcopy(self.model)
            for weight in self.repaired_.parameters():
                weight.data += torch.rand(())

    def test(self, schedule: Any = None) -> dict[str, Any]:
        return {"ca": Rate(3, 4), "loss": 0.5}

    def get_model(self) -> Any:
        return getattr(self, "repaired_", self.model)


class CopiesArguments(Good):
    def __init__(self, train_dataset: Any, model: Any, schedule: Any, seed: int) -> None:
        super().__init__(train_dataset, copy.deepcopy(model), schedule, seed)


class Nameless(Good):
    def __init__(self, *things: Any) -> None:
        super().__init__(*things)


class SeedsEverything(Good):
    def __init__(self, train_dataset: Any, model: Any, schedule: Any, seed: int) -> None:
        super().__init__(train_dataset, model, schedule, seed)
        torch.manual_seed(seed)


class NoTest(Good):
    test: Any = None


class Silent(Good):
    def test(self, schedule: Any = None) -> Any:
        return None


class Words(Good):
    def test(self, schedule: Any = None) -> Any:
        return {"ca": "good"}


class NoModel(Good):
    def get_model(self) -> Any:
        return super().get_model().state_dict()


class ChangesSchedule(Good):
    def repair(self, schedule: Any = None) -> None:
        super().repair(schedule)
        schedule["lr"] *= 0.1


class ChangesData(Good):
    def repair(self, schedule: Any = None) -> None:
        super().repair(schedule)
        self.train_dataset.samples.pop()


class ChangesSuspect(Good):
    def repair(self, schedule: Any = None) -> None:
        super().repair(schedule)
        self.model.eval()


class DrawsFromPython(Good):
    def test(self, schedule: Any = None) -> Any:
        random.random()
        return super().test(schedule)


class DrawsFromNumpy(Good):
    def test(self, schedule: Any = None) -> Any:
        np.random.rand()
        return super().test(schedule)


class Unseeded(Good):
    def repair(self, schedule: Any = None) -> None:
        state = torch.get_rng_state()
        self.repaired_ = copy.deepcopy(self.model)
        for weight in self.repaired_.parameters():
            weight.data += torch.rand(())
        torch.set_rng_state(state)


class Counting(Good):
    """Numbers that change from run to run."""

    runs = 0

    def test(self, schedule: Any = None) -> Any:
        Counting.runs += 1
        return {"ca": Counting.runs}


def checks(kind: type[Good]) -> dict[str, Check]:
    def make() -> Good:
        state = torch.get_rng_state()
        torch.manual_seed(0)
        model, images = nn.Linear(3, 2), Images()
        torch.set_rng_state(state)
        arguments = (images, model, {"lr": 0.1}, 3)
        if kind is Nameless:
            return kind(*arguments)
        names = ("train_dataset", "model", "schedule", "seed")
        return kind(**dict(zip(names, arguments, strict=True)))

    return {check.name: check for check in checks_for(make)}


@pytest.mark.parametrize("check", checks(Good).values())
def test_a_good_defence_passes(check: Check) -> None:
    check()


def of_invertune(make_model: Callable[[], nn.Module]) -> list[Check]:
    return [*checks_for(lambda: defense(make_model(), schedule={"batch_size": 8}, seed=1))]


@pytest.mark.parametrize("check", of_invertune(zero_shot) + of_invertune(resnet))
def test_invertune_passes(check: Check) -> None:
    check()


@pytest.mark.parametrize(
    ("kind", "broken", "told"),
    [
        (CopiesArguments, "constructor_only_stores", r"something else for \['model'\]"),
        (Nameless, "constructor_only_stores", "arguments without a name"),
        (SeedsEverything, "constructor_only_stores", "random state"),
        (NoTest, "methods_are_there", r"\['test'\]"),
        (Silent, "test_gives_numbers", "gave None"),
        (Words, "test_gives_numbers", r"no number for \['ca'\]"),
        (NoModel, "model_is_given_before_and_after", r"no nn\.Module"),
        (ChangesSchedule, "schedule_is_unchanged", "schedule"),
        (ChangesData, "datasets_are_unchanged", "train_dataset"),
        (ChangesSuspect, "suspect_is_unchanged", "came back changed"),
        (DrawsFromPython, "random_state_is_unchanged", "random state"),
        (DrawsFromNumpy, "random_state_is_unchanged", "random state"),
        (Unseeded, "seed_decides_the_result", "other weights"),
        (Counting, "seed_decides_the_result", "other numbers"),
    ],
)
def test_every_fault_is_found(kind: type[Good], broken: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        checks(kind)[broken]()


def test_the_checks_have_names_and_one_run_serves_them_all() -> None:
    repairs: list[int] = []

    class Counted(Good):
        def repair(self, schedule: Any = None) -> None:
            repairs.append(1)
            super().repair(schedule)

    found = checks(Counted)
    for check in found.values():
        check()
    assert len(repairs) == 2, "the second is for the seed"
    assert [check.__name__ for check in found.values()] == list(found)
