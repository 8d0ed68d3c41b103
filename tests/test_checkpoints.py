from __future__ import annotations

import argparse
import copy
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from invertune_plugin import checkpoints
from invertune_plugin.checkpoints import (
    file_sha256,
    read_card,
    read_state_dict,
    refuse_existing,
    write_checkpoint,
    write_text,
)
from invertune_plugin.errors import InputError
from invertune_plugin.pickles import read_pickle

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "code ran")


class RunsShell(RunsCode):
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo ran > {self.path}",)


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".PT"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_plain_tensors_are_read(tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = saved(tmp_path / f"x{suffix}", WEIGHTS, _use_new_zipfile_serialization=zipped)
    read = read_state_dict(path)
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w, "epoch": 3, "name": "run"},
        lambda w: {"model": w},
        lambda w: {"model_state_dict": w, "optimizer": {"lr": 0.1}},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {"state_dict": {f"module._orig_mod.{k}": v for k, v in w.items()}},
        lambda w: {f"_orig_mod.module.{k}": v for k, v in w.items()},
        lambda w: {k: torch.nn.Parameter(v) for k, v in w.items()},
    ],
)
def test_wrappers_and_prefixes_are_removed(tmp_path: Path, wrap: Any) -> None:
    read = read_state_dict(saved(tmp_path / "x.pt", wrap(WEIGHTS)))
    assert read.keys() == WEIGHTS.keys()
    assert not any(tensor.requires_grad for tensor in read.values())


def test_module_prefix_stays_when_only_some_keys_have_it(tmp_path: Path) -> None:
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert read_state_dict(saved(tmp_path / "x.pt", mixed)).keys() == mixed.keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_floating_weights_become_fp32(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    weights = {"w": torch.ones(2, dtype=dtype), "steps": torch.tensor([3])}
    path = tmp_path / f"x{suffix}"
    if suffix == ".pt":
        saved(path, weights)
    else:
        save_file(weights, path)
    read = read_state_dict(path)
    assert read["w"].dtype == torch.float32
    assert read["steps"].dtype == torch.int64


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [RunsCode, RunsShell])
def test_code_in_a_pickle_never_runs(tmp_path: Path, kind: type[RunsCode], zipped: bool) -> None:
    proof = tmp_path / "proof"
    evil = {"state_dict": {**WEIGHTS, "x": kind(proof)}}
    path = saved(tmp_path / "evil.pt", evil, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"a pickle that asks to run .*nothing ran"):
        read_state_dict(path)
    assert not proof.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)
    assert proof.exists(), "the file would have run code: the test proves something"


def test_what_lies_beside_weights_is_let_through_and_forgotten(tmp_path: Path) -> None:
    """Options and NumPy learning rates, as PAR, CleanCLIP and BadCLIP save them."""
    beside = {
        "args": argparse.Namespace(lr=1e-6, betas=(0.9, 0.98)),
        "optimizer": {"param_groups": [{"lr": np.float64(0.5), "steps": np.int64(3)}]},
    }
    path = saved(tmp_path / "x.pt", {"state_dict": WEIGHTS, **beside})
    before = set(torch.serialization.get_safe_globals())
    assert read_state_dict(path).keys() == WEIGHTS.keys()
    content = read_pickle(path)
    for kept in (content["args"], content["optimizer"]["param_groups"][0]["lr"]):
        assert type(kept) not in (argparse.Namespace, np.float64)
        assert not hasattr(kept, "__dict__")
    assert set(torch.serialization.get_safe_globals()) == before


def test_numbers_of_an_older_numpy_are_let_through(tmp_path: Path) -> None:
    content = {"state_dict": WEIGHTS, "lr": np.float64(0.5)}
    path = saved(tmp_path / "x.pt", content, _use_new_zipfile_serialization=False)
    old = re.sub(
        rb"cnumpy\.(_core|core)\.multiarray\n", b"cnumpy.core.multiarray\n", path.read_bytes()
    )
    assert b"cnumpy.core.multiarray" in old
    path.write_bytes(old)
    assert read_state_dict(path).keys() == WEIGHTS.keys()


def test_code_behind_a_name_that_is_let_through_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    evil = argparse.Namespace(lr=RunsCode(proof))
    path = saved(tmp_path / "evil.pt", {"state_dict": WEIGHTS, "args": evil})
    with pytest.raises(InputError, match="nothing ran"):
        read_state_dict(path)
    assert not proof.exists()


def test_numpy_is_not_called_for_a_number_in_a_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "x.pt", {"state_dict": WEIGHTS, "lr": np.float64(0.5)})
    monkeypatch.setattr(np, "dtype", lambda *_: pytest.fail("NumPy was called"))
    assert read_state_dict(path).keys() == WEIGHTS.keys()


def test_a_number_of_numpy_among_the_weights_is_no_tensor(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {**WEIGHTS, "scale": np.float64(0.5)})
    with pytest.raises(InputError, match=r"not all tensors \(scale\)"):
        read_state_dict(path)


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"):
        read_state_dict(path)


def test_torchscript_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "jit.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(InputError, match="got a TorchScript archive, which holds code"):
        read_state_dict(path)


def rezipped(path: Path, compression: int, copies: int = 1) -> Path:
    """The same archive with records compressed, or with one record under several names."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        for number in range(copies - 1):
            again = copy.copy(largest)
            again.filename = f"{largest.filename}-{number}"
            archive.filelist.append(again)
    return path


def test_archives_that_grow_when_they_are_read_are_refused(tmp_path: Path) -> None:
    """200 MB of zeros fit into 200 kB, and one record can be listed many times."""
    weights = {"w": torch.zeros(250_000)}
    for bomb in (
        rezipped(saved(tmp_path / "deflated.pt", weights), zipfile.ZIP_DEFLATED),
        rezipped(saved(tmp_path / "listed.pt", weights), zipfile.ZIP_STORED, copies=3),
    ):
        with pytest.raises(InputError, match=r"as torch\.save stores .*\.pt, got compressed or"):
            read_state_dict(bomb)
    honest = rezipped(saved(tmp_path / "x.pt", weights), zipfile.ZIP_STORED)
    assert torch.equal(read_state_dict(honest)["w"], weights["w"])


def test_weights_that_are_listed_many_times_are_refused(tmp_path: Path) -> None:
    """Views of one half-precision storage cost nothing in the file, and as fp32 much memory."""
    stored = torch.zeros(100_000, dtype=torch.float16)
    tied = saved(tmp_path / "tied.pt", {f"w{i}": stored for i in range(4)})
    assert len(read_state_dict(tied)) == 4
    path = saved(tmp_path / "x.pt", {f"w{i}": stored[i:] for i in range(50)})
    with pytest.raises(InputError, match=r"2 numbers a byte in .*x\.pt, got 4998775 in \d+ bytes"):
        read_state_dict(path)


def test_pickles_need_a_torch_that_reads_them_safely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "x.pt", WEIGHTS)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(InputError, match=r"Expected torch 2\.6 or newer.*convert the file"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"x{suffix}"
    weights = {"w": torch.ones(500)}
    if suffix == ".pt":
        saved(path, weights)
    else:
        save_file(weights, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"which cannot be read .*truncated"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_garbage_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(InputError, match="download or copy it again"):
        read_state_dict(tmp_path / name)


def test_a_missing_file_a_folder_and_a_strange_suffix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Expected a checkpoint file.*does not exist"):
        read_state_dict(tmp_path / "no.pt")
    with pytest.raises(InputError, match="is a folder"):
        read_state_dict(tmp_path)
    (tmp_path / "x.npz").touch()
    with pytest.raises(InputError, match=r"ends in \.safetensors, \.pt"):
        read_state_dict(tmp_path / "x.npz")


def nested_in_itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "came"),
    [
        ([torch.ones(1)], "a list"),
        (torch.ones(2), "a Tensor"),
        ({}, "a dict without weights"),
        ({"epoch": 3}, "a dict without weights"),
        ({"w": torch.ones(1), "note": "hello"}, r"not all tensors \(note\)"),
        ({1: torch.ones(1)}, r"not all tensors \(1\)"),
        ({"w": torch.ones(2, 2).to_sparse()}, r"not all tensors \(w\)"),
        ({"w": torch.ones(1).expand(10**6)}, r"not all tensors \(w\)"),
        ({"w": torch.ones(2, device="meta")}, r"not all tensors \(w\)"),
        (nested_in_itself(), "a dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, came: str) -> None:
    path = saved(tmp_path / "x.pt", content)
    with pytest.raises(InputError, match=f"Expected a state dict .*{came}"):
        read_state_dict(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    path = saved(tmp_path / "x.pt", {**WEIGHTS, "bad.weight": torch.tensor([1.0, value])})
    with pytest.raises(InputError, match=r"in 1 of 3 tensors \(bad\.weight\)"):
        read_state_dict(path)
    with pytest.raises(InputError, match=r"the weights to be saved.*bad\.weight"):
        write_checkpoint(tmp_path / "y.safetensors", {"bad.weight": torch.tensor(value)}, {})


def test_a_checkpoint_comes_back_with_its_card(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.safetensors"
    card = {"target": "banana", "asr": 0.99, "mean": [0.1, 0.2]}
    tied = torch.ones(3, 2)
    write_checkpoint(path, {**WEIGHTS, "t": tied, "tied": tied, "turned": tied.T}, card)
    assert read_card(path) == card
    read = read_state_dict(path)
    assert torch.equal(read["tied"], tied)
    assert torch.equal(read["turned"], tied.T)
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]


def test_files_without_a_card_have_an_empty_one(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "x.safetensors", {"format": "pt"})
    assert read_card(tmp_path / "x.safetensors") == {}
    assert read_card(saved(tmp_path / "x.pt", WEIGHTS)) == {}


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_a_broken_card_is_refused(tmp_path: Path, text: str) -> None:
    save_file(WEIGHTS, tmp_path / "x.safetensors", {checkpoints.CARD_KEY: text})
    with pytest.raises(InputError, match="Expected a JSON object as the card"):
        read_card(tmp_path / "x.safetensors")


@pytest.mark.parametrize("value", [float("nan"), torch.ones(1), {1, 2}])
def test_a_card_holds_json_only(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match="Expected a card of finite JSON values"):
        write_checkpoint(tmp_path / "x.safetensors", WEIGHTS, {"value": value})
    assert not list(tmp_path.iterdir())


def test_an_existing_output_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, WEIGHTS, {"run": 1})
    with pytest.raises(InputError, match="Pass --overwrite to replace it"):
        write_checkpoint(path, WEIGHTS, {"run": 2})
    assert read_card(path) == {"run": 1}
    write_checkpoint(path, WEIGHTS, {"run": 2}, overwrite=True)
    assert read_card(path) == {"run": 2}


def test_text_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_text(path, "Äpfel")
    assert path.read_text(encoding="utf-8") == "Äpfel"
    with pytest.raises(InputError, match="--overwrite"):
        write_text(path, "x")
    write_text(path, "y", overwrite=True)
    assert path.read_text(encoding="utf-8") == "y"


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, WEIGHTS, {"run": 1})

    def full(_: Any, file: Path, __: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_checkpoint(path, WEIGHTS, {"run": 2}, overwrite=True)
    assert read_card(path) == {"run": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written_are_refused_early(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Choose a folder you can write to"):
        refuse_existing(tmp_path / "file" / "x.json")
    with pytest.raises(InputError, match="got the folder"):
        refuse_existing(tmp_path, overwrite=True)
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        write_checkpoint(tmp_path / "x.pt", WEIGHTS, {})


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Choose a folder you can write to"):
            refuse_existing(tmp_path / "x.json")
    finally:
        tmp_path.chmod(0o755)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert re.fullmatch(r"ba7816bf[0-9a-f]{48}f20015ad", file_sha256(tmp_path / "x"))
