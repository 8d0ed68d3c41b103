from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from tiny import rn_config, vit_config
from torch import Tensor

from invertune_plugin.adapters.open_clip import (
    LoadedClip,
    clip_card,
    load_clip,
    save_clip,
    zero_shot_classifier,
)
from invertune_plugin.checkpoints import file_sha256, read_card, write_checkpoint
from invertune_plugin.errors import InputError

CONFIGS = {"rn": rn_config, "vit": vit_config}
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(params=["rn", "vit"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return written(tmp_path / f"tiny-{request.param}.json", CONFIGS[request.param]())


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return written(tmp_path / "vit.json", vit_config())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@torch.no_grad()
def outputs(loaded: LoadedClip) -> Tensor:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = loaded.tokenizer(["a cat", "two dogs", "a ring"])
    model: Any = loaded.model
    image, text, scale = model(images, tokens)[:3]
    return scale * image @ text.T


def as_clean_clip(weights: dict[str, Tensor]) -> dict[str, Any]:
    """src/main.py of nishadsinghi/CleanCLIP and LiangSiyuan21/BadCLIP; its schedule is NumPy's."""
    state = {"epoch": 9, "name": "run", "state_dict": under_module(weights)}
    return {**state, "optimizer": trained(weights, 0.5 * (1 + np.cos(1.0)) * 1e-6)}


def as_par(weights: dict[str, Tensor]) -> dict[str, Any]:
    """train.py of nmndeep/PerturbAndRecover, which also saves its options."""
    lr = np.linspace(3e-5, 1e-9, 5)[2]
    state = {"epoch": 2, "state_dict": under_module(weights), "optimizer": trained(weights, lr)}
    rest = {"scaler": torch.amp.GradScaler("cpu").state_dict(), "best_acc1": 57.1}
    return {**state, **rest, "args": argparse.Namespace(model="ViT-B/32", betas=(0.9, 0.98))}


def as_detect_clip(weights: dict[str, Tensor]) -> dict[str, Any]:
    """exp_mgmt.py of HanxunH/Detect-CLIP-Backdoor-Samples, which knows of thop's counters."""
    counters = [f"{at}{n}" for at in ("", "visual.") for n in ("total_ops", "total_params")]
    return {**weights, **{name: torch.zeros(1, dtype=torch.float64) for name in counters}}


def under_module(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def trained(weights: dict[str, Tensor], lr: Any) -> dict[str, Any]:
    """State of an AdamW after one step, with a learning rate that a schedule has set."""
    parameter = torch.nn.Parameter(weights["text_projection"].clone())
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = lr
    return optimizer.state_dict()


def as_openai(weights: dict[str, Tensor]) -> dict[str, Any]:
    extra = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    return {**weights, **{key: torch.tensor(value) for key, value in extra.items()}}


def as_old_open_clip(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {"state_dict": {**weights, "attn_mask": torch.zeros(77, 77)}}


def as_custom_text(weights: dict[str, Tensor]) -> dict[str, Any]:
    apart = ("visual.", "logit_scale")
    return {k if k.startswith(apart) else f"text.{k}": v for k, v in weights.items()}


LAYOUTS = [
    *(dict, as_clean_clip, as_par, as_detect_clip),
    *(as_openai, as_old_open_clip, as_custom_text),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_key_layouts_give_the_same_logits(
    config: Path, tmp_path: Path, layout: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    made = load_clip(config)
    path = saved(tmp_path / "x.pt", layout(made.model.state_dict()))
    loaded = load_clip(config, path, quick_gelu=False)
    assert torch.equal(outputs(loaded), outputs(made))
    assert loaded.source == str(path)
    assert loaded.source_sha256 == file_sha256(path)


def test_plain_weights_fit_a_custom_text_model(tmp_path: Path) -> None:
    custom = written(tmp_path / "custom.json", {**vit_config(), "custom_text": True})
    plain = load_clip(written(tmp_path / "plain.json", vit_config()))
    path = saved(tmp_path / "x.pt", plain.model.state_dict())
    loaded = load_clip(custom, path)
    assert isinstance(loaded.model, open_clip.CustomTextCLIP)
    assert torch.allclose(outputs(loaded), outputs(plain), atol=1e-6)


def test_fp16_checkpoints_become_fp32(config: Path, tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in load_clip(config).model.state_dict().items()}
    loaded = load_clip(config, saved(tmp_path / "x.pt", half))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert not loaded.model.training
    assert outputs(loaded).isfinite().all()


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_saved_model_rebuilds_itself(tmp_path: Path, quick_gelu: bool) -> None:
    content = {**vit_config(), "preprocess_cfg": {"mean": MEAN, "std": STD}}
    made = load_clip(written(tmp_path / "own.json", content), quick_gelu=quick_gelu)
    path = tmp_path / "x.safetensors"
    save_clip(path, made, {"target": "banana"})
    loaded = load_clip(None, path)
    assert torch.equal(outputs(loaded), outputs(made))
    same = ("mean", "std", "image_size", "architecture", "quick_gelu", "model_config")
    assert all(getattr(loaded, name) == getattr(made, name) for name in same)
    assert (loaded.mean, loaded.std, loaded.image_size) == (MEAN, STD, 32)
    assert read_card(path)["target"] == "banana"
    assert read_card(path)["source"] == "random"


def test_a_bare_model_is_saved_with_the_card_of_its_origin(config: Path, tmp_path: Path) -> None:
    made = load_clip(config)
    repaired = copy.deepcopy(made.model)
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match=r"for a bare model, got one without model_config.*Add"):
        save_clip(path, repaired, {"target": 3})
    save_clip(path, repaired, clip_card(made))
    assert torch.equal(outputs(load_clip(None, path)), outputs(made))
    with pytest.raises(InputError, match="--overwrite"):
        save_clip(path, made, {})
    save_clip(path, dataclasses.replace(made, model=repaired), {}, overwrite=True)


def test_a_card_cannot_lie_about_a_loaded_model(config: Path, tmp_path: Path) -> None:
    made = load_clip(config)
    save_clip(tmp_path / "x.safetensors", made, {"quick_gelu": True, "architecture": "RN50"})
    assert load_clip(None, tmp_path / "x.safetensors").quick_gelu is False


def test_quick_gelu_follows_the_best_evidence(config: Path, tmp_path: Path) -> None:
    made = load_clip(config, quick_gelu=True)
    assert made.quick_gelu
    assert made.model_config["quick_gelu"] is True
    weights = made.model.state_dict()
    openai = saved(tmp_path / "openai.pt", as_openai(weights))
    assert load_clip(config, openai).quick_gelu
    assert torch.equal(outputs(load_clip(config, openai)), outputs(made))
    assert not load_clip(config, openai, quick_gelu=False).quick_gelu
    stated = written(tmp_path / "stated.json", {**json.loads(config.read_text()), "quick_gelu": 0})
    assert not load_clip(stated, openai).quick_gelu
    carded = tmp_path / "x.safetensors"
    save_clip(carded, made, {})
    assert load_clip(stated, carded).quick_gelu


def test_an_unmarked_file_of_a_known_architecture_warns_about_its_activation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds tiny models under the names of big ones: only the names matter here."""
    small = {"RN50": rn_config, "ViT-B-32": vit_config, "ViT-g-14": vit_config}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: small[name]())
    paths = {
        name: saved(
            tmp_path / f"{name}.pt",
            load_clip(written(tmp_path / f"{name}.json", config())).model.state_dict(),
        )
        for name, config in small.items()
    }
    with pytest.warns(UserWarning, match=r"taking QuickGELU, as all published RN50 .*=False"):
        assert load_clip("RN50", paths["RN50"]).quick_gelu
    with pytest.warns(UserWarning, match=r"taking GELU, as some published ViT-B-32 .*=True"):
        assert not load_clip("ViT-B-32", paths["ViT-B-32"]).quick_gelu
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not load_clip("ViT-g-14", paths["ViT-g-14"]).quick_gelu
        assert load_clip("RN50", paths["RN50"], quick_gelu=True).quick_gelu


def test_a_tag_brings_its_activation_and_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vit: Path
) -> None:
    path = saved(tmp_path / "download.pt", load_clip(vit).model.state_dict())
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: vit_config())
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg: str(path))
    openai = load_clip("ViT-B/32", "openai")
    assert (openai.architecture, openai.source) == ("ViT-B-32", "ViT-B-32/openai")
    assert openai.quick_gelu
    assert openai.mean == open_clip.OPENAI_DATASET_MEAN
    laion = load_clip(None, "ViT-B-32/laion2b_s34b_b79k")
    assert not laion.quick_gelu
    assert laion.source_sha256 == file_sha256(path)
    with pytest.warns(UserWarning, match=r"SigLIP was trained on images resized by .*'squash'"):
        assert load_clip("ViT-B-16-SigLIP", "webli").mean == (0.5, 0.5, 0.5)


def test_another_architecture_gets_a_readable_difference(tmp_path: Path, vit: Path) -> None:
    path = saved(tmp_path / "x.pt", load_clip(vit).model.state_dict())
    resnet = written(tmp_path / "rn.json", rn_config())
    with pytest.raises(InputError) as caught:
        load_clip(resnet, path)
    message = str(caught.value)
    assert message.startswith(f"Expected the weights of rn in {path}, got weights that do not fit")
    assert "  missing (" in message
    assert "visual.layer1" in message or "visual.bn1" in message
    assert "  unexpected (" in message
    assert (
        "  of another shape (1): visual.conv1.weight is [16, 3, 8, 8], not [4, 3, 3, 3]" in message
    )
    assert "another architecture" in message


@pytest.mark.parametrize(
    ("part", "claims"),
    [
        ("text_cfg", {"vocab_size": 10**12}),
        ("text_cfg", {"context_length": 10**9}),
        ("vision_cfg", {"layers": 10**6}),
        ("vision_cfg", {"image_size": 10**6, "patch_size": 1, "pos_embed_type": "sin_cos_2d"}),
    ],
)
def test_what_a_card_claims_is_compared_before_memory_is_taken(
    tmp_path: Path, part: str, claims: dict[str, Any]
) -> None:
    config = vit_config()
    config[part].update(claims)
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, {"w": torch.ones(1)}, {"model_config": config})
    with pytest.raises(InputError, match=r"weights that do not fit|less than a tenth") as caught:
        load_clip(None, path)
    assert str(path) in str(caught.value)


def test_a_checkpoint_leaves_random_numbers_as_a_model_without_weights_does(
    config: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made, after = load_clip(config), torch.rand(3)
    path = saved(tmp_path / "x.pt", made.model.state_dict())
    torch.manual_seed(0)
    assert torch.equal(outputs(load_clip(config, path)), outputs(made))
    assert torch.equal(torch.rand(3), after)


def test_a_transformers_checkpoint_is_recognised(tmp_path: Path, vit: Path) -> None:
    path = saved(tmp_path / "x.bin", {"vision_model.embeddings.class_embedding": torch.ones(3)})
    with pytest.raises(InputError, match="look like a Hugging Face transformers model"):
        load_clip(vit, path)


def test_an_image_tower_alone_is_recognised(config: Path, tmp_path: Path) -> None:
    tower: Any = load_clip(config).model.visual
    path = saved(tmp_path / "x.pt", tower.state_dict())
    with pytest.raises(InputError, match=r"look like an image tower alone; .* the text tower too"):
        load_clip(config, path)


def test_no_architecture_at_all_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"w": torch.ones(1)})
    with pytest.raises(InputError, match="Expected an architecture, got none"):
        load_clip(None, path)
    with pytest.raises(InputError, match="random does not name its own"):
        load_clip()


def test_unknown_names_list_the_near_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got 'ViT-B32'\. Near it: .*ViT-B-32"):
        load_clip("ViT-B32")
    with pytest.raises(InputError, match=r"tag of RN50, got 'opnai'\. Near it: openai"):
        load_clip("RN50", "opnai")
    with pytest.raises(InputError, match="does not exist"):
        load_clip("RN50", tmp_path / "openai")
    with pytest.raises(InputError, match="does not exist"):
        load_clip("RN50", str(tmp_path / "no.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expected a JSON model config"),
        ("[]", "Expected a JSON object as model config, got a list"),
        ('{"embed_dim": 3}', "with embed_dim, vision_cfg, text_cfg in .*got embed_dim"),
        (json.dumps({**vit_config(), "odd": 1}), "open_clip can build, got own: .*odd"),
        (json.dumps({**vit_config(), "preprocess_cfg": [1]}), "an object as preprocess_cfg"),
        (json.dumps({**vit_config(), "preprocess_cfg": {"std": [1, 1, 0]}}), "positive numbers"),
        (json.dumps({**vit_config(), "preprocess_cfg": {"mean": 1}}), "three numbers as mean"),
    ],
)
def test_bad_model_configs_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_clip(path)


def test_a_missing_config_and_a_wide_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Expected a JSON model config"):
        load_clip(tmp_path / "no.json")
    wide = vit_config()
    wide["vision_cfg"]["image_size"] = [32, 64]
    with pytest.raises(InputError, match="Expected a model with square input"):
        load_clip(written(tmp_path / "wide.json", wide))


def test_a_hub_config_file_is_understood(tmp_path: Path) -> None:
    content = {"model_cfg": vit_config(), "preprocess_cfg": {"mean": MEAN, "std": STD}}
    assert load_clip(written(tmp_path / "open_clip_config.json", content)).mean == MEAN


def test_a_hub_model_is_loaded_from_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vit: Path
) -> None:
    content = {"model_cfg": vit_config(), "preprocess_cfg": {"mean": MEAN, "std": STD}}
    config = written(tmp_path / "open_clip_config.json", content)
    path = saved(tmp_path / "weights.bin", load_clip(vit).model.state_dict())
    adapters = "invertune_plugin.adapters"
    monkeypatch.setattr(
        f"{adapters}.model_configs.download_pretrained_from_hf", lambda name, filename: str(config)
    )
    monkeypatch.setattr(f"{adapters}.weights.download_pretrained_from_hf", lambda name: str(path))
    for loaded in (load_clip("hf-hub:org/name"), load_clip(None, "hf-hub:org/name")):
        assert (loaded.architecture, loaded.source) == ("hf-hub:org/name", "hf-hub:org/name")
        assert loaded.mean == MEAN
        assert torch.equal(outputs(loaded), outputs(load_clip(vit, path)))


def test_a_checkpoint_cannot_ask_for_a_tokenizer_with_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "invertune_plugin.adapters.model_configs.HFTokenizer",
        lambda name, **options: asked.update(options, name=name),
    )
    config = vit_config()
    config["text_cfg"]["hf_tokenizer_name"] = "org/evil"
    config["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    load_clip(written(tmp_path / "own.json", config))
    assert asked["name"] == "org/evil"
    assert asked["trust_remote_code"] is False


@pytest.mark.usefixtures("offline")
def test_a_failed_download_says_how_to_go_on() -> None:
    with pytest.raises(InputError, match=r"'org/name' from the Hugging Face hub(.|\n)*\.json file"):
        load_clip("hf-hub:org/name")
    with pytest.raises(InputError, match=r"download RN50/openai from (.|\n)*local checkpoint file"):
        load_clip("RN50", "openai")


def test_a_loaded_model_becomes_a_classifier(config: Path) -> None:
    loaded = load_clip(config)
    classifier = zero_shot_classifier(loaded, ["cat", "dog", "ring"], ["a photo of a {}."])
    assert classifier(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert classifier.image_size == 32
    assert classifier.mean.flatten().tolist() == pytest.approx(loaded.mean)
