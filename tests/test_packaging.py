"""The distribution brings one import package, from a wheel and from an editable install."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IMPORTS = """
import importlib.util, sys
sys.modules["accelerate"] = None  # of the extra [distributed]: all works without it
import invertune_plugin, invertune_plugin.adapters.shapes, invertune_plugin.configs
from invertune_plugin.benchmark.experiment.recipe import load_recipe, model_config, shipped_recipes
import invertune_plugin.benchmark.commands.repair
assert {"demo", "real"} <= set(shipped_recipes()), shipped_recipes()
assert load_recipe("demo").attack.target == "star"
assert model_config("shapes_rn").endswith("shapes_rn.json")
from importlib.resources import files
assert files("invertune_plugin").joinpath("py.typed").is_file()
assert files("invertune_plugin.benchmark.report").joinpath("templates/report.html.j2").is_file()
assert importlib.util.find_spec("adapters") is None
assert importlib.util.find_spec("configs") is None
print(invertune_plugin.__file__)
"""


EXPORTS = """
import sys
import invertune_plugin
assert "torch" not in sys.modules, "importing the package stays cheap"
assert invertune_plugin.__all__ == sorted(invertune_plugin.__all__)
assert set(invertune_plugin._HOME_OF) == set(invertune_plugin.__all__)
for name in invertune_plugin.__all__:
    found = getattr(invertune_plugin, name)
    assert callable(found), name
"""


def run_elsewhere(folder: Path, *path: str) -> str:
    code = f"import sys; sys.path[:0] = {list(path)!r}\n{IMPORTS}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_installed_package_imports_from_another_folder(tmp_path: Path) -> None:
    run_elsewhere(tmp_path)


def test_every_exported_name_is_there_and_none_is_loaded_early() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXPORTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_wheel_imports_from_another_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listing:
        pytest.skip("not a git checkout: no list of files to build a wheel from")
    for name in listing:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    target = tmp_path / "site"
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)],
        check=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    assert run_elsewhere(tmp_path, str(target)).startswith(str(target))
