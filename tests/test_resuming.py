"""The state that a training goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from invertune_plugin.errors import InputError
from invertune_plugin.resuming import Stopwatch, load_state, save_state


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_state_before(tmp_path: Path) -> None:
    path, model = tmp_path / "new" / "state", nn.Linear(200, 200)
    save_state(path, 1, model=model)
    before = path.read_bytes()
    with files_of_at_most(50_000), pytest.raises(InputError, match=r"write .*state, got: not all"):
        save_state(path, 2, model=model)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"hello world",
        lambda content: content[: len(content) // 2],
        lambda content: content[:300] + b"\xff" * 50 + content[350:],
    ],
    ids=["empty", "text", "cut", "changed"],
)
def test_a_damaged_state_is_to_be_removed(tmp_path: Path, damage: Any) -> None:
    path, model = tmp_path / "x.resume", nn.Linear(20, 20)
    save_state(path, 3, model=model)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"state of this training in .*x\.resume, .*Remove the"):
        load_state(path, model=model)


@pytest.mark.parametrize("parts", [{"other": nn.Linear(20, 20)}, {"model": nn.Linear(20, 3)}])
def test_the_state_of_another_training_is_to_be_removed(tmp_path: Path, parts: Any) -> None:
    path = tmp_path / "x.resume"
    save_state(path, 3, model=nn.Linear(20, 20))
    with pytest.raises(InputError, match=r"cannot go on from .*Remove the file"):
        load_state(path, **parts)
    torch.save([1], path)
    with pytest.raises(InputError, match="Remove the file"):
        load_state(path)


def test_a_lack_of_memory_is_no_damage(tmp_path: Path) -> None:
    class Large(nn.Linear):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            raise torch.cuda.OutOfMemoryError("20 GiB")

    path = tmp_path / "x.resume"
    save_state(path, 3, model=nn.Linear(2, 2))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        load_state(path, model=Large(2, 2))


def test_a_stopwatch_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ten seconds, a break, three seconds of preparing again, and four of the rest."""
    now = 0.0
    monkeypatch.setattr("invertune_plugin.resuming.time.perf_counter", lambda: now)
    first = Stopwatch()
    now = 10.0
    save_state(tmp_path / "state", 5, watch=first)
    now = 1000.0
    second = Stopwatch()
    now = 1003.0
    assert load_state(tmp_path / "state", watch=second) == 5
    now = 1007.0
    assert second.seconds == 14.0
