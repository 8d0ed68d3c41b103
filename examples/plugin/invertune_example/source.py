"""A data set of one's own: stripes in four directions."""

import torch

from invertune_plugin.benchmark.experiment.sources import Part, Sources, TestSet
from invertune_plugin.data import InMemory


class Gratings(Sources):
    """Drawn stripes; pairs and captions are made of class names and templates."""

    class_names = ("upright", "rising", "level", "falling")
    templates = ("{} stripes", "a picture of {} stripes")

    def images(self, part: Part) -> InMemory[int]:
        """Stripes with their direction as label."""
        return self._drawn(int(getattr(self.config, part)), self.seeds[part])

    def tests(self) -> list[TestSet]:
        """One set."""
        return [TestSet("stripes", self._drawn(self.config.test, self.test_seed), self.class_names)]

    def _drawn(self, count: int, seed: int) -> InMemory[int]:
        draws = torch.rand(3, count, 1, 1, generator=torch.Generator().manual_seed(seed))
        angle = (torch.arange(count) % 4).view(-1, 1, 1) * torch.pi / 4 + 0.3 * (draws[0] - 0.5)
        y, x = torch.meshgrid(*[torch.linspace(0, 1, self.size)] * 2, indexing="ij")
        turns = (3 + 5 * draws[1]) * (x * angle.cos() + y * angle.sin()) + draws[2]
        grey = (127.5 + 127.5 * (2 * torch.pi * turns).sin()).to(torch.uint8)
        return InMemory(grey[:, None].repeat(1, 3, 1, 1), [i % 4 for i in range(count)])
