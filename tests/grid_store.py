"""A synthetic store of a grid, of any size, for the tests of its report."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from invertune_plugin.benchmark.grid.claims import About, Claim, Cost
from invertune_plugin.benchmark.grid.store import Store

ORIGIN = {
    "hardware": {"cpu": "a processor", "cores": 2, "gpu": None},
    "versions": {"python": "3.11.7", "torch": "2.15.0"},
    "commit": "0123456789abcdef",
    "created": "2026-01-01T00:00:00+00:00",
}
LEFT = {"none": 0.97, "inver_tune": 0.03, "fine_tuning": 0.9, "clean_clip": 0.6, "par": 0.2}


def share(name: str, value: float, n: int = 1800) -> dict[str, Any]:
    low, high = max(0.0, value - 0.01), min(1.0, value + 0.01)
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}


class SyntheticStore:
    """Writes claims as ``invertune bench`` does, with numbers from a seeded draw."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.store = Store.open(root)
        self.random = random.Random(seed)
        self.count = 0

    def about(
        self, kind: str, names: dict[str, Any], settings: dict[str, Any], parents: Sequence[str]
    ) -> About:
        self.count += 1
        plain = {name: v for name, v in settings.items() if isinstance(v, str | int | float)}
        return About(f"{self.count:020x}", kind, names | plain, settings, tuple(parents))

    def save(self, about: About, record: dict[str, Any], **beside: Any) -> str:
        """Save a claim with its pictures, curves and log; returns the key."""
        doubts = beside.pop("doubts", ())
        with self.store.working_folder(about.key) as folder:
            for name, picture in beside.pop("pictures", {}).items():
                picture.save(folder / f"{name}.png")
            for name, text in beside.pop("files", {}).items():
                (folder / name).write_text(text)
            files = tuple(sorted(path.name for path in folder.iterdir()))
            claim = Claim(
                about=about,
                outcome=beside.pop("outcome", "ok"),
                record=record,
                doubts=doubts,
                cost=Cost(round(self.random.uniform(20, 90), 1), 812.5),
                passes=4096,
                artefacts=files,
                origin=ORIGIN,
                **beside,
            )
            self.store.save(claim, folder)
        return about.key

    def victim(self, base: str, attack: str, seed: int, **beside: Any) -> str:
        names = {"base": base, "tower": f"{base}_rn", "attack": attack}
        settings = {"attack": attack, "seed": seed, "made_of": {"rate": 0.03, "target": "star"}}
        value = 0.01 if attack == "none" else 0.97
        record = share("ca_clean", 0.96) | share("asr_clean", 0.01)
        record |= share("ca_before", 0.965) | share("asr_before", value)
        pictures = {name: drawn(attack, seed, name) for name in ("clean", "triggered", "change")}
        about = self.about("victim", names, settings, ())
        return self.save(about, record, pictures=pictures, **beside)

    def repair(
        self, base: str, attack: str, defense: str, seed: int, victim: str, **beside: Any
    ) -> str:
        about = self.about_repair(base, attack, defense, seed, victim)
        left = 0.01 if attack == "none" else LEFT.get(defense, 0.5)
        left = min(1.0, max(0.0, left + self.random.uniform(-0.03, 0.03)))
        record = share("ca_after", 0.95 + self.random.uniform(-0.02, 0.01)) | share(
            "asr_after", left
        )
        record |= share("asr_rebound", min(1.0, left + 0.08)) | share("ca_rebound", 0.94)
        found = "star" if defense == "inver_tune" and attack != "none" else None
        record |= {"passes": 4096, "seconds_repair": 12.5, "found_target": found}
        if attack == "none":
            record["false_alarm"] = False
        losses = [(i + 1, round(2.5 * 0.95**i + 0.1, 4)) for i in range(60)]
        files = {"curves.json": json.dumps({defense: losses, "rebound": losses[:30]})}
        files["log.txt"] = "\n".join(f"12:00:{i:02d} step {i} of 59" for i in range(60))
        pictures = {}
        if defense == "inver_tune":
            pictures = {"inverted": drawn(attack, seed, "inverted")}
        return self.save(about, record, pictures=pictures, files=files, **beside)

    def about_repair(self, base: str, attack: str, defense: str, seed: int, victim: str) -> About:
        names = {"base": base, "tower": f"{base}_rn", "attack": attack, "seed": seed}
        settings = {"defense": defense, "options": {}, "rebound": 300}
        return self.about("repair", names, settings, (victim,))

    def mark(self, about: About, outcome: str, reason: str, **beside: Any) -> None:
        given = {"reason": reason, "origin": ORIGIN} | beside
        self.store.mark(Claim(about, outcome, **given))


def drawn(attack: str, seed: int, name: str) -> Image.Image:
    """A strip of four noisy 32-pixel squares, different for each attack, seed and name."""
    draw = random.Random(f"{attack} {seed} {name}")
    small = Image.frombytes("RGB", (16, 4), draw.randbytes(16 * 4 * 3))
    return small.resize((128, 32), Image.Resampling.NEAREST)


def full_store(
    root: Path, bases: Sequence[str], attacks: Sequence[str], defenses: Sequence[str], seeds: int
) -> Path:
    """All attacks x defences x seeds, every cell with numbers."""
    made = SyntheticStore(root)
    for base in bases:
        for seed in range(seeds):
            for attack in attacks:
                victim = made.victim(base, attack, seed)
                for defense in defenses:
                    made.repair(base, attack, defense, seed, victim)
    return root


def small_store(root: Path, hostile: str = "") -> Path:
    """Two tables with every kind of cell: ok, rejected, failed, impossible, not run, doubtful."""
    made = SyntheticStore(root)
    attacks = ("none", "badnets", "blended", f"mine{hostile}")
    for base in ("demo", "real"):
        for seed in range(3):
            for attack in attacks:
                victim = made.victim(base, attack, seed)
                for defense in ("none", "fine_tuning", "clean_clip", "par", "inver_tune"):
                    one = (base, attack, defense, seed, victim)
                    about = made.about_repair(*one)
                    if defense == "inver_tune" and attack == "none":
                        reason = f"No class stands out.{hostile}"
                        made.repair(*one, outcome="rejected", reason=reason)
                    elif defense == "par" and attack == "blended" and seed == 2:
                        reason = f"RuntimeError: the loss is nan{hostile}"
                        made.mark(about, "failed", reason, traceback=f"Traceback{hostile}\n  line")
                    elif not (base == "real" and defense == "clean_clip" and seed):
                        doubts = (f"only 12 images{hostile}",) if seed == 1 else ()
                        made.repair(*one, doubts=doubts if attack == "badnets" else ())
                if base == "demo":
                    about = made.about_repair(base, attack, "rvpt", seed, victim)
                    made.mark(about, "impossible", f"It needs a vision transformer.{hostile}")
    return root
