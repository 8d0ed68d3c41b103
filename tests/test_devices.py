"""Devices by name, and what a launcher says."""

from __future__ import annotations

import pytest
import torch

from invertune_plugin.devices import pick_device
from invertune_plugin.errors import InputError
from invertune_plugin.launch import launched, rank


@pytest.mark.parametrize("name", ["meta", "xla", "hpu", "abacus", "", "cuda:-1"])
def test_devices_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"auto, cpu, cuda or cuda:N as device, got '{name}'. Use"):
        pick_device(name)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="MPS is present")
def test_an_absent_mps_is_refused() -> None:
    with pytest.raises(InputError, match="got 'mps'"):
        pick_device("mps")


@pytest.mark.parametrize(
    ("size", "number", "expected"),
    [
        (None, None, (1, 0)),
        ("", "", (1, 0)),
        ("two", "one", (1, 0)),
        ("-1", "-1", (1, 0)),
        ("0", "0", (1, 0)),
        ("2", "1", (2, 1)),
        (" 2 ", " 1 ", (2, 1)),
    ],
)
def test_only_numbers_are_of_a_launcher(
    monkeypatch: pytest.MonkeyPatch,
    size: str | None,
    number: str | None,
    expected: tuple[int, int],
) -> None:
    for name, value in (("WORLD_SIZE", size), ("RANK", number)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert (launched(), rank()) == expected
