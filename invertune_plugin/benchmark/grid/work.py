"""What a worker process does for one cell: compute it, store it, tell how it ended."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from invertune_plugin.benchmark.grid.cells import Compute, Parent
from invertune_plugin.benchmark.grid.claims import About, Claim, claim_of
from invertune_plugin.benchmark.grid.metering import metered
from invertune_plugin.benchmark.grid.store import DiskFull, Store
from invertune_plugin.outcome import Outcome

LOG = "log.txt"
ONE_THREAD: Mapping[str, str] = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Task:
    """A cell as it travels to a worker.

    Attributes:
        root: folder of the store, the same on all machines.
        about: the cell.
        compute: its function.
    """

    root: Path
    about: About
    compute: Compute


@dataclass(frozen=True)
class Done:
    """How a cell ended.

    Attributes:
        ok: whether it has a claim now.
        seconds: that it took.
        reason: why it failed.
        full: the sentence about a disk that is full, which stops the run.
    """

    ok: bool
    seconds: float = 0.0
    reason: str = ""
    full: str = ""


def work(task: Task, run_by: int | None = None) -> Done:
    """Compute and store one cell; a cell that another run has stored meanwhile is left alone.

    Args:
        task: the cell.
        run_by: the process that waits for it; without that one a failure is not stored, as its end
            may be the cause. None where a cluster keeps worker and run apart.
    """
    with _one_at_a_time:
        _use_one_thread()
        store = Store.open(task.root, create=False)
        if store.usable(task.about.key):
            return Done(ok=True)
        try:
            return _computed(task, store, run_by)
        except DiskFull as error:
            return Done(ok=False, full=str(error))


def _computed(task: Task, store: Store, run_by: int | None) -> Done:
    about = task.about
    with store.working_folder(about.key) as folder, metered() as meter:
        try:
            parents = tuple(_parent(store, key) for key in about.parents)
            result = task.compute(about.settings, parents, folder, _Log(folder / LOG))
            claim = claim_of(about, result, meter.read(), _files(folder))
            store.save(claim, folder)
        except (Exception, SystemExit) as error:
            if run_by not in (None, os.getppid()):
                raise SystemExit("the run that asked for this is gone") from error
            if full := store.full(error):
                raise full from error
            cost = meter.read()
            reason = f"{type(error).__name__}: {error}"
            store.mark(
                Claim(
                    about=about,
                    outcome=Outcome.FAILED.value,
                    reason=reason,
                    cost=cost,
                    traceback=traceback.format_exc(),
                    log=_tail(folder / LOG),
                )
            )
            return Done(ok=False, seconds=cost.seconds, reason=reason)
    return Done(ok=True, seconds=claim.cost.seconds if claim.cost else 0.0)


def leave_with(parent: int) -> None:
    """End this process soon after the one that started it, so that nobody works for nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Log:
    """Takes sentences of a cell; they are kept with its files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, sentence: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {sentence}\n")


def _use_one_thread() -> None:
    os.environ.update(ONE_THREAD)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _parent(store: Store, key: str) -> Parent:
    claim = store.claim(key)
    record = {**claim.record, "outcome": claim.outcome, "reason": claim.reason}
    return Parent(claim.about.kind, claim.about.settings, record, store.folder(key))


def _files(folder: Path) -> tuple[str, ...]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return tuple(sorted(found))


def _tail(log: Path, lines: int = 50) -> tuple[str, ...]:
    return tuple(log.read_text(encoding="utf-8").splitlines()[-lines:]) if log.is_file() else ()
