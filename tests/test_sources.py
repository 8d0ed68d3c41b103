"""The data of the recipes."""

from invertune_plugin.benchmark.recipe import load_recipe
from invertune_plugin.benchmark.sources import PARTS, build_sources


def test_attack_defence_and_evaluation_share_no_image() -> None:
    sources = build_sources(load_recipe("demo").data, 32, seed=0, clean_seed=0)
    sets = [sources.pairs(part) for part in PARTS] + [test.images for test in sources.tests()]
    keys = [{dataset.content_key(i) for i in range(len(dataset))} for dataset in sets]
    assert len(set().union(*keys)) == sum(len(some) for some in keys)
