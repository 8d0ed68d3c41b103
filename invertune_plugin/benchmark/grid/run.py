"""Run a plan: each cell as soon as its parents are there, until nothing is left that can go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass

from invertune_plugin.benchmark.grid.cells import Cell, Say
from invertune_plugin.benchmark.grid.claims import About, Claim
from invertune_plugin.benchmark.grid.engines import Engine
from invertune_plugin.benchmark.grid.plan import Plan, blocked
from invertune_plugin.benchmark.grid.store import DiskFull, Store
from invertune_plugin.benchmark.grid.work import Done, Task
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome

TRIES = 3
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Ran:
    """What a run did.

    Attributes:
        computed: cells that have a claim now and had none.
        failed: cells that failed, those without a parent included.
    """

    computed: int
    failed: int


def mark_cells(plan: Plan, store: Store) -> None:
    """Store why cells cannot run, where that is not stored yet."""
    there = store.keys("failures")
    for key, claim in plan.marked.items():
        if key not in there or store.failure(key).reason != claim.reason:
            store.mark(claim)


def run_plan(plan: Plan, store: Store, engine: Engine, say: Say, advance: Advance) -> Ran:
    """Compute what a plan misses; workers store each cell at once.

    A cell whose worker is lost is tried again. After a second loss it goes alone, as nobody knows
    which of the cells under way ended the workers; one that goes on losing them has failed. So has
    one that raises.

    Args:
        plan: from ``plan_cells``.
        store: where to; the caller has locked it.
        engine: computes cells; the caller closes it.
        say: takes a sentence per cell.
        advance: takes (ended, all).

    Raises:
        DiskFull: there is no room; nothing further is begun.
        InputError: the cluster is gone, or its machines do not share the store.
    """
    return _Run(plan, store, engine, say, advance).to_the_end()


class _Run:
    def __init__(
        self, plan: Plan, store: Store, engine: Engine, say: Say, advance: Advance
    ) -> None:
        self.store = store
        self.engine = engine
        self.say = say
        self.advance = advance
        self.total = len(plan.missing)
        self.flying: dict[Future[Done], Cell] = {}
        self.losses: dict[str, int] = {}
        self.alone: deque[Cell] = deque()
        self.failed: set[str] = set()
        self.computed = 0

        missing = {cell.key for cell in plan.missing}
        self.open_parents = {
            cell.key: {p.key for p in cell.parents if p.key in missing} for cell in plan.missing
        }
        self.children: dict[str, list[Cell]] = {}
        for cell in plan.missing:
            for key in self.open_parents[cell.key]:
                self.children.setdefault(key, []).append(cell)
        self.ready = deque(cell for cell in plan.missing if not self.open_parents[cell.key])

    def to_the_end(self) -> Ran:
        self.advance(0, self.total)
        while self.ready or self.alone or self.flying:
            self._hand_over()
            ended, _ = wait(self.flying, return_when=FIRST_COMPLETED)
            for future in ended:
                self._take(self.flying.pop(future), future)
                self.advance(self.computed + len(self.failed), self.total)
        return Ran(self.computed, len(self.failed))

    def _hand_over(self) -> None:
        """Keep all slots busy; a cell that lost its worker twice goes alone."""
        if any(self.losses.get(cell.key, 0) > 1 for cell in self.flying.values()):
            return
        if self.alone:
            if not self.flying:
                self._submit(self.alone.popleft())
            return
        slots = self.engine.slots
        while self.ready and (slots is None or len(self.flying) < slots):
            self._submit(self.ready.popleft())

    def _submit(self, cell: Cell) -> None:
        task = Task(self.store.root.absolute(), About.of(cell), cell.kind.compute)
        self.flying[self.engine.submit(task)] = cell

    def _take(self, cell: Cell, future: Future[Done]) -> None:
        try:
            done = future.result()
        except BrokenExecutor as error:
            self._lost(cell, error)
        except CancelledError as error:
            raise InputError(
                "Expected the scheduler to stay until the grid is done, got none. Start it anew "
                "and run the same command again; what was stored is kept."
            ) from error
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            self._fail(cell, f"{type(error).__name__}: {error}", stored=False)
        else:
            self._ended(cell, done)

    def _ended(self, cell: Cell, done: Done) -> None:
        if done.full:
            raise DiskFull(done.full)
        if not done.ok:
            self._fail(cell, done.reason, stored=True)
            return
        self.computed += 1
        self.say(f"{cell.title}: {done.seconds:.1f} s")
        for child in self.children.get(cell.key, ()):
            parents = self.open_parents[child.key]
            parents.discard(cell.key)
            if not parents and child.key not in self.failed:
                self.ready.append(child)

    def _lost(self, cell: Cell, error: Exception) -> None:
        self.losses[cell.key] = losses = self.losses.get(cell.key, 0) + 1
        if losses > TRIES:
            self._fail(cell, f"lost its worker {losses} times: {error}", stored=False)
            return
        self.say(f"{cell.title}: its worker was lost; it is tried again")
        if losses > 1:
            self.alone.append(cell)
        else:
            self.ready.appendleft(cell)

    def _fail(self, cell: Cell, reason: str, stored: bool) -> None:
        if not stored:
            failed = Outcome.FAILED.value
            self.store.mark(Claim(about=About.of(cell), outcome=failed, reason=reason))
        self.failed.add(cell.key)
        self.say(f"{cell.title}: failed: {reason}")
        stack = list(self.children.get(cell.key, ()))
        while stack:
            child = stack.pop()
            if child.key not in self.failed:
                self.failed.add(child.key)
                self.store.mark(blocked(child, cell, Outcome.FAILED.value, reason))
                stack.extend(self.children.get(child.key, ()))
