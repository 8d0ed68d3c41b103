"""Loading a toolbox: a fake one for the edge cases, the real clone where there is one."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fake_toolbox import commit, write_toolbox
from torch.utils.data import DataLoader

from invertune_plugin import InputError, cli, load_toolbox
from invertune_plugin.adapters.backdoorbox import workers
from invertune_plugin.adapters.backdoorbox.check import Row, check
from invertune_plugin.adapters.backdoorbox.finder import ToolboxFinder
from invertune_plugin.adapters.backdoorbox.locate import HOME, find_clone

REAL = os.environ.get(HOME)
real_clone = pytest.mark.skipif(not REAL, reason=f"{HOME} names no clone of BackdoorBox")
Load = Callable[..., ModuleType]


def hide_toolbox() -> tuple[list[Any], dict[str, ModuleType]]:
    """Take any loaded toolbox out of this process."""
    finders = [finder for finder in sys.meta_path if isinstance(finder, ToolboxFinder)]
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in finders]
    names = [name for name in sys.modules if name.partition(".")[0] == "core"]
    return finders, {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process without a toolbox; what was loaded before comes back afterwards."""
    monkeypatch.delenv(HOME, raising=False)
    finders, modules = hide_toolbox()
    searched = sys.path[:]
    workers.close_door()
    yield
    hide_toolbox()
    sys.path[:] = searched
    sys.meta_path[:0] = finders
    sys.modules.update(modules)


@pytest.fixture
def fake(apart: None, tmp_path: Path) -> Path:
    return write_toolbox(tmp_path / "clone")


@pytest.fixture
def load(fake: Path) -> Load:
    """Load the fake toolbox, of which one patch fits a module no longer."""

    def run(**options: Any) -> ModuleType:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_toolbox(fake, **options)

    return run


def states(core: ModuleType) -> dict[str, Row]:
    return {row.name: row for row in check(core)}


def test_all_ways_to_import_work(load: Load, fake: Path) -> None:
    core = load()
    assert core is sys.modules["core"]
    assert core is importlib.import_module("core")
    assert str(core.__file__).startswith(str(fake))
    assert importlib.import_module("core.attacks.BadNets").BadNets is core.BadNets
    assert core.MCR.bend() == "bent", "`curves` comes from the package, not from the folder"


def test_the_same_call_gives_the_same_module(load: Load) -> None:
    core = load()
    assert load() is core
    assert load_toolbox() is core
    assert load_toolbox(device="cpu").BadNets is core.BadNets


def test_another_call_is_refused(load: Load, tmp_path: Path) -> None:
    load()
    with pytest.raises(
        InputError, match=r"as it is loaded in this process.*got a call for another"
    ):
        load_toolbox(tmp_path / "other")
    with pytest.raises(InputError, match="without numpy-int"):
        load_toolbox(disable=["numpy-int"])


def test_the_environment_names_the_clone(
    fake: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv(HOME, str(fake))
    assert find_clone().path == fake.resolve()
    assert load_toolbox().BadNets


def test_the_import_path_names_the_clone(fake: Path, recwarn: pytest.WarningsRecorder) -> None:
    sys.path.insert(0, str(fake))
    assert load_toolbox().__file__ == str(fake / "core" / "__init__.py")
    assert not list(fake.rglob("__pycache__"))


def test_nothing_found(apart: None) -> None:
    with pytest.raises(InputError, match=r"got nothing\. Get one by `git clone https://github"):
        find_clone()


def test_what_is_no_toolbox_is_refused(apart: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        find_clone(tmp_path / "nowhere")
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("")
    with pytest.raises(InputError, match=r"has no core/attacks/BadNets\.py"):
        find_clone(tmp_path)
    sys.path.insert(0, str(tmp_path))
    with pytest.raises(InputError, match="another package named core in"):
        find_clone()


def test_another_core_on_the_path_is_refused(fake: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "core.py").write_text("")
    sys.path.insert(0, str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match=r"no other package named core.*core\.py on the import"):
        load_toolbox(fake)


def test_another_core_that_is_imported_is_refused(fake: Path) -> None:
    sys.modules["core"] = ModuleType("core")
    with pytest.raises(InputError, match="imported already"):
        load_toolbox(fake)


def test_a_failed_load_leaves_nothing(fake: Path, recwarn: pytest.WarningsRecorder) -> None:
    (fake / "core/attacks/__init__.py").write_text("raise ImportError('no list')")
    searched = sys.path[:]
    with pytest.raises(ImportError, match="no list"):
        load_toolbox(fake)
    assert not any(name.partition(".")[0] == "core" for name in sys.modules)
    assert not any(isinstance(finder, ToolboxFinder) for finder in sys.meta_path)
    assert sys.path == searched


def test_a_changed_clone_is_warned_of(fake: Path) -> None:
    commit(fake)
    with pytest.warns(UserWarning, match="is at commit .* tested with a clean af3afd1"):
        clone = find_clone(fake)
    assert clone.commit is not None
    assert not clone.dirty
    (fake / "core/models/resnet.py").write_text("class ResNet: depth = 1\n")
    with pytest.warns(UserWarning, match="has changed files under core/"):
        assert find_clone(fake).dirty


def test_without_git_the_commit_is_unknown(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_clone(fake).commit is None
    commit(fake)
    monkeypatch.setenv("PATH", "")
    assert find_clone(fake).commit is None


def test_what_cannot_be_imported_is_a_placeholder(load: Load) -> None:
    searched = sys.path[:]
    core = load()
    with pytest.raises(InputError, match=r"a_module_that_nobody_has.*code and weights"):
        core.BAAT(y_target=1)
    with pytest.raises(InputError, match="a_module_that_nobody_has"):
        core.attacks.BAAT.support_list  # noqa: B018
    assert not hasattr(sys.modules["core.attacks.BAAT"], "half")
    assert "somewhere" not in sys.path
    assert [entry for entry in sys.path if entry not in searched] == sys.path[-2:]


def test_a_missing_library_is_named(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match=r"pip install '\.\[toolbox\]'"):
        load().ISSBA()


def test_the_first_cause_is_told(fake: Path, load: Load) -> None:
    (fake / "core/models/curves.py").write_text("import a_module_that_nobody_has")
    with pytest.raises(InputError, match=r"core\.models\.curves to import.*nobody_has"):
        load().MCR()


def test_patches_are_applied(load: Load) -> None:
    core = load()
    tensor = torch.ones(2, requires_grad=True)
    tensor.sum().backward()
    core.TUAP.clear(tensor)
    assert tensor.grad is not None
    assert tensor.grad.tolist() == [0, 0]
    assert core.Pruning().mask("cpu").device.type == "cpu"


def test_a_patch_that_fits_no_longer_is_warned_of(fake: Path) -> None:
    with pytest.warns(UserWarning, match="'hdbscan-class' fits nowhere in core.defenses.FLARE"):
        core = load_toolbox(fake)
    assert core.FLARE
    assert states(core)["hdbscan-class"].state == "not matching"
    assert states(core)["zero-gradients"].state == "applied"
    assert states(core)["numpy-int"].state == "not needed"


@pytest.mark.parametrize("names", [["zero-gradients"], "zero-gradients"])
def test_patches_are_switched_off_by_name(load: Load, names: Any) -> None:
    core = load(disable=names)
    with pytest.raises(InputError, match="zero_gradients"):
        core.TUAP()
    assert states(core)["zero-gradients"].state == "switched off"


def test_an_unknown_patch_is_refused(fake: Path) -> None:
    with pytest.raises(InputError, match=r"got nonsense\. Known are .*zero-gradients"):
        load_toolbox(fake, disable=["nonsense"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is present")
def test_cuda_absent(fake: Path) -> None:
    with pytest.raises(InputError, match="'cuda', but torch sees 0"):
        load_toolbox(fake, device="cuda")


def test_check_needs_the_loaded_module(apart: None) -> None:
    with pytest.raises(InputError, match=r"Call load_toolbox\(\)"):
        check(ModuleType("core"))


def test_any_folder_will_do_and_the_clone_stays_as_it_was(
    load: Load, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in fake.rglob("*")}
    monkeypatch.chdir(fake)
    assert load().MCR.bend() == "bent"
    importlib.import_module("core.utils.test")
    assert {path: path.stat().st_mtime_ns for path in fake.rglob("*")} == before


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_find_the_toolbox(load: Load, method: str) -> None:
    core = load()
    utils = importlib.import_module("core.utils.test")
    loader = DataLoader(
        sys.modules["core.attacks.BadNets"].Poisoned(),
        num_workers=1,
        multiprocessing_context=method,
        worker_init_fn=utils._seed_worker,
    )
    imported = {int(all_of_it) for _, all_of_it in loader}
    assert imported == {int(method == "fork")}, "a new process imports what it needs, no more"
    assert core.BadNets


def test_a_worker_can_complete_the_toolbox(load: Load, fake: Path) -> None:
    """What spawn does, step by step: the parent's sys.path, an unpickled class, then the rest."""
    load(disable=["numpy-int"])
    code = f"""
import sys
sys.path[:] = {sys.path!r}
import core.attacks.BadNets
assert core.__file__ == {str(fake / "core" / "__init__.py")!r}, core
assert "core.defenses.Pruning" not in sys.modules
from core import Pruning
from invertune_plugin import load_toolbox
assert load_toolbox(disable=["numpy-int"]) is core is sys.modules["core"]
assert core.InverTune and core.BadNets is core.attacks.BadNets
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "what fits no longer was told by the parent"


SCRIPT = """
import sys, warnings
from torch.utils.data import DataLoader
from invertune_plugin import load_toolbox

warnings.simplefilter("ignore")
core = load_toolbox()

if __name__ == "__main__":
    images = sys.modules["core.attacks.BadNets"].Poisoned()
    loader = DataLoader(images, num_workers=1, multiprocessing_context="spawn")
    print([int(all_of_it) for _, all_of_it in loader])
"""


def test_a_script_beside_core_that_loads_at_its_top(fake: Path) -> None:
    """As the toolbox's own scripts do; every worker executes it again."""
    (fake / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=fake, capture_output=True, text=True, check=False)
    assert done.stdout == "[0, 0]\n", done.stderr
    assert not list(fake.rglob("__pycache__"))


def test_no_worker_without_a_parent(apart: None) -> None:
    code = f"import sys; sys.path.append({str(workers.FOLDER)!r}); import core"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: No module named 'core'" in done.stderr


def test_the_command_prints_what_is_there(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["invertune", "toolbox", "check", str(fake)])
    with pytest.warns(UserWarning, match="fits nowhere"), pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    said = capsys.readouterr().out
    for part in ("BadNets", "placeholder", "InverTune", "registered", "not matching"):
        assert part in said


def test_the_command_without_a_clone(
    apart: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["invertune", "toolbox", "check"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "git clone" in " ".join(capsys.readouterr().err.split())


@pytest.mark.toolbox
@real_clone
def test_the_real_toolbox(tmp_path: Path) -> None:
    """14 of 15 attacks and 12 of 12 defences are real classes; the clone is as it was."""
    code = """
import json, sys, time, warnings
import cv2, hdbscan, imageio, lpips, matplotlib.pyplot, scipy.stats, sklearn.metrics, umap
import invertune_plugin.adapters.backdoorbox.defense
from invertune_plugin import load_toolbox
from invertune_plugin.adapters.backdoorbox.check import check
start = time.perf_counter()
core = load_toolbox()
seconds = time.perf_counter() - start
print(json.dumps([seconds, [(row.kind, row.name, row.state) for row in check(core)]]))
"""
    state = ["git", "-C", str(REAL), "status", "--porcelain", "--ignored"]
    before = subprocess.run(state, capture_output=True, text=True, check=False).stdout
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:invertune_plugin", "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, rows = json.loads(done.stdout.splitlines()[-1])
    placeholders = [name for _, name, state in rows if state == "placeholder"]
    usable = [kind for kind, _, state in rows if state == "usable"]
    assert (usable.count("attack"), usable.count("defence")) == (14, 12), placeholders
    assert {state for kind, _, state in rows if kind == "patch"} == {"applied"}
    assert seconds < 5, "about 1 s on a free machine; the imports themselves take longer"
    assert subprocess.run(state, capture_output=True, text=True, check=False).stdout == before
    assert not list(tmp_path.iterdir())


@pytest.mark.toolbox
@real_clone
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_real_data_sets_travel_to_workers(method: str) -> None:
    load_toolbox(REAL)
    pixels = torch.zeros(4, 1, 2, 2)
    dataset = sys.modules["core.defenses.ABL"].TensorsDataset(pixels, torch.arange(4))
    start = time.perf_counter()
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context=method, batch_size=4)
    assert next(iter(loader))[1].tolist() == [0, 1, 2, 3]
    assert time.perf_counter() - start < 120
