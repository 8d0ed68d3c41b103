"""The store of a grid: a folder with one small JSON file per claim, complete or absent."""

from __future__ import annotations

import errno
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from invertune_plugin import __version__
from invertune_plugin.benchmark.grid.claims import Claim, read_claim
from invertune_plugin.errors import InputError
from invertune_plugin.files import refuse_existing, replacing

FORMAT = 1
FOLDERS = ("claims", "failures", "artefacts")
ABANDONED_AFTER = 7 * 24 * 3600


class DiskFull(InputError):
    """There is no room left; what was stored before is whole."""


@dataclass(frozen=True)
class Store:
    """A folder with ``claims/KEY.json``, ``failures/KEY.json`` and ``artefacts/KEY/``.

    Attributes:
        root: the folder.
    """

    root: Path

    @classmethod
    def open(cls, root: str | Path, create: bool = True) -> Store:
        """A store that is there, or a new one.

        Raises:
            InputError: the folder is none, or a newer version made it.
        """
        root = Path(root)
        store = cls(root)
        card = root / "store.json"
        if not card.is_file():
            if not (create and store.is_new):
                came = "something else" if root.exists() else "nothing"
                raise InputError(
                    f"Expected a store in {root}, got {came}. Give the folder of a grid, or a new "
                    "one for a new grid."
                )
            store._write(card, json.dumps({"format": FORMAT, "made_by": __version__}) + "\n")
        store._check(card)
        for name in FOLDERS:
            (root / name).mkdir(exist_ok=True)
        return store

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Keep other runs out; they go with the process, however it ends.

        Args:
            wait: for another run to end, instead of refusing.

        Raises:
            InputError: another run uses the store.
        """
        lock = FileLock(self.root / ".lock", timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(
                f"Expected the store {self.root} for this run alone, got one that another run is "
                "using. Let that one end, or pass --wait."
            ) from error
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def keys(self, folder: str = "claims") -> set[str]:
        """Keys of all claims, or of all ``failures``."""
        return {path.stem for path in (self.root / folder).glob("[!.]*.json")}

    def claims(self, folder: str = "claims") -> list[Claim]:
        """All claims, or all ``failures``, by key; a run may be adding some meanwhile.

        Raises:
            InputError: a file is no claim.
        """
        paths = [self._path(folder, key) for key in sorted(self.keys(folder))]
        return [read_claim(path) for path in paths if path.is_file()]

    def standing(self) -> list[Claim]:
        """All claims, and the marks of cells without one.

        A cell that has a claim may fail later, when its files are to be made again; what it had
        measured stays.

        Raises:
            InputError: a file is no claim.
        """
        claims = self.claims()
        known = {claim.about.key for claim in claims}
        return claims + [mark for mark in self.claims("failures") if mark.about.key not in known]

    def claim(self, key: str) -> Claim:
        """The claim of a cell that is done.

        Raises:
            InputError: there is none.
        """
        return read_claim(self._path("claims", key))

    def failure(self, key: str) -> Claim:
        """Why a cell failed or is impossible.

        Raises:
            InputError: there is no such mark.
        """
        return read_claim(self._path("failures", key))

    def usable(self, key: str) -> bool:
        """Whether a cell is done and its files are there."""
        if not self._path("claims", key).is_file():
            return False
        return all((self.folder(key) / name).is_file() for name in self.claim(key).artefacts)

    def folder(self, key: str) -> Path:
        """Where the files of a cell are."""
        return self.root / "artefacts" / key

    @contextmanager
    def working_folder(self, key: str) -> Iterator[Path]:
        """An empty folder for the files of a cell; it is gone when the block ends."""
        folder = self.root / "artefacts" / f".{key}-{uuid.uuid4().hex}.partial"
        with self._room():
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def save(self, claim: Claim, work: Path | None = None) -> None:
        """Keep a claim and the files of its working folder; the first one of a cell stays.

        Raises:
            DiskFull: there is no room.
        """
        key = claim.about.key
        if self.usable(key):
            return
        text = claim.to_json()
        with self._room():
            if work is not None and claim.artefacts:
                if self.folder(key).exists():
                    shutil.rmtree(self.folder(key))
                work.replace(self.folder(key))
            self._write(self._path("claims", key), text)
            self._path("failures", key).unlink(missing_ok=True)

    def mark(self, claim: Claim) -> None:
        """Keep that a cell failed or is impossible.

        Raises:
            DiskFull: there is no room.
        """
        self._write(self._path("failures", claim.about.key), claim.to_json())

    def full(self, error: BaseException) -> DiskFull | None:
        """The error for people, where an error comes from a disk that is full."""
        if isinstance(error, DiskFull):
            return error
        link: BaseException | None = error
        while link is not None and not _tells_full(link):
            link = link.__cause__ or link.__context__
        if link is None:
            return None
        return DiskFull(
            f"Expected room for the results in {self.root} and for the files that they take, got "
            f"a disk that is full ({link}). All that was stored before is kept: free some space "
            "and run the same command again."
        )

    def _write(self, path: Path, text: str) -> None:
        """Write a file that other runs may be writing too: the last one stays."""
        with self._room():
            if not path.parent.is_dir():
                refuse_existing(path)
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except (OSError, InputError) as error:
            if full := self.full(error):
                raise full from error
            raise

    def _path(self, folder: str, key: str) -> Path:
        return self.root / folder / f"{key}.json"

    @property
    def is_new(self) -> bool:
        """Whether the folder is absent, or holds nothing or a store whose making was stopped."""
        if not self.root.exists():
            return True
        return self.root.is_dir() and all(p.name.startswith(".") for p in self.root.iterdir())

    @staticmethod
    def _check(card: Path) -> None:
        try:
            content = json.loads(card.read_text(encoding="utf-8"))
            found, maker = int(content["format"]), content["made_by"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"Expected the card of a store in {card}, got something else ({error}). "
                "Choose another folder."
            ) from error
        if found > FORMAT:
            raise InputError(
                f"Expected a store of format {FORMAT} or older in {card.parent}, got format "
                f"{found} of invertune {maker}. Update invertune, or choose another folder."
            )

    def _sweep(self) -> None:
        """Delete what runs left half made a week ago; younger ones may still be at work."""
        oldest = time.time() - ABANDONED_AFTER
        for folder in FOLDERS:
            for path in (self.root / folder).glob(".*.partial"):
                if path.stat().st_mtime < oldest:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _tells_full(error: BaseException) -> bool:
    """Whether an error is that of a full disk; libraries in other languages only say so."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error)
