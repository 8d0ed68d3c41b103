"""What people see while something runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

WIDEST = 10_000
console = Console(stderr=True, highlight=False)


def say(sentence: str) -> None:
    """Print one sentence about what goes on."""
    console.print(sentence, markup=False, soft_wrap=True)


@contextmanager
def speaking(aloud: bool) -> Iterator[None]:
    """Print inside only where ``aloud``: of several processes one talks."""
    quiet, console.quiet = console.quiet, not aloud
    try:
        yield
    finally:
        console.quiet = quiet


@contextmanager
def training_progress() -> Iterator[Callable[[str], Callable[[int, int, float], None]]]:
    """Progress bars of trainings: call it with a title, then with (done, steps, loss)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:

        def start(title: str) -> Callable[[int, int, float], None]:
            task = bars.add_task(title, total=None, loss=float("nan"))

            def advance(done: int, steps: int, loss: float) -> None:
                bars.update(task, completed=done, total=steps, loss=loss)

            return advance

        yield start


@contextmanager
def item_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar: call it with (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table on standard output; nothing is cut off, and files get it as wide as it is."""
    grid = Table()
    for name in header:
        grid.add_column(escape(name), overflow="fold")
    for row in rows:
        grid.add_row(*(escape(cell) for cell in row))
    out = Console(highlight=False, quiet=console.quiet)
    if not out.is_terminal:
        out.width = WIDEST
    out.print(grid)
