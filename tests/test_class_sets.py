from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from invertune_plugin.adapters.class_sets import class_names, templates
from invertune_plugin.errors import InputError


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [("imagenet", 1000, "tench"), ("CIFAR10", 10, "airplane"), ("gtsrb", 43, "20 km/h")],
)
def test_named_sets(name: str, count: int, first: str) -> None:
    names = class_names(name)
    assert len(names) == count
    assert names[0].startswith(first)
    assert class_names(name) is not names


def test_imagenet_has_banana_where_the_attacks_expect_it() -> None:
    assert class_names("imagenet")[954] == "banana"


@pytest.mark.parametrize("text", ["cat\ndog\n", "cat\r\ndog\r\n\r\n", "\ufeffcat\n dog "])
def test_a_file_holds_one_class_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(text.encode())
    assert class_names(path) == ["cat", "dog"]
    assert class_names(str(path)) == ["cat", "dog"]


def test_a_hash_is_part_of_the_name() -> None:
    assert class_names(["# one", "two"]) == ["# one", "two"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat"], "two or more classes in the list, got \\['cat'\\]"),
        ([], "two or more classes"),
        (["cat", " ", "dog"], "got ' ' in line 2 of the list"),
        (["cat", 3], "got 3 in line 2"),
        (["cat", "dog", "cat "], "got repeated: cat"),
    ],
)
def test_bad_lists_are_refused(names: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_names(names)


def test_a_blank_line_inside_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("cat\n\ndog\n")
    with pytest.raises(InputError, match="in line 2 of"):
        class_names(path)


def test_an_unknown_set_names_the_near_ones() -> None:
    with pytest.raises(InputError, match=r"\(imagenet, cifar10, gtsrb\).*Near it: imagenet"):
        class_names("imagnet")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="Expected a UTF-8 text file"):
        class_names(tmp_path / "classes.txt")
    with pytest.raises(InputError, match="Expected a UTF-8 text file"):
        class_names(tmp_path)


@pytest.mark.parametrize(("name", "count"), [("openai", 80), ("simple", 7), ("single", 1)])
def test_named_templates_are_format_strings(name: str, count: int) -> None:
    found = templates(name)
    assert len(found) == count
    assert all(template.format("cat").count("cat") == 1 for template in found)
    assert templates("single") == ["a photo of a {}."]


def test_templates_come_from_a_string_a_list_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a {}\nthe {}\n")
    assert templates("a sketch of a {}") == ["a sketch of a {}"]
    assert templates(["a {}", "{{a}} {}"]) == ["a {}", "{{a}} {}"]
    assert templates(tmp_path / "t.txt") == ["a {}", "the {}"]


@pytest.mark.parametrize(
    "template", ["a photo", "{} and {}", "{name}", "{0.__class__}", "{", "{!r}"]
)
def test_templates_have_one_place(template: str) -> None:
    with pytest.raises(InputError, match=r"Expected templates with one \{\}"):
        templates([template])


def test_unknown_and_empty_template_sets_are_refused() -> None:
    with pytest.raises(InputError, match="Near it: openai"):
        templates("open-ai")
    with pytest.raises(InputError, match="one or more templates"):
        templates([])
