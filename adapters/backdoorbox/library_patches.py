"""Repairs for libraries that moved on since the toolbox was written."""

from __future__ import annotations

from invertune_plugin.adapters.backdoorbox.patch import Patch
from invertune_plugin.adapters.backdoorbox.rewriting import Rule

LIBRARY_PATCHES = (
    Patch(
        name="zero-gradients",
        what="a function of ours clears the gradient",
        why="the import fails, and with it the import of the whole toolbox",
        needed_with="torch >= 1.9",
        places={"attacks.TUAP": (18,)},
        rules=(
            Rule(
                "from torch.autograd.gradcheck import zero_gradients",
                "from invertune_plugin.adapters.backdoorbox.shims import zero_gradients",
            ),
        ),
    ),
    Patch(
        name="numpy-int",
        what="the built-in int",
        why="AttributeError: numpy has no attribute int",
        needed_with="numpy >= 1.24",
        places={"defenses.CutMix": (69, 70)},
        rules=(Rule("np.int", "int"),),
    ),
    Patch(
        name="numpy-pad",
        what="np.pad",
        why="AttributeError: numpy.lib has no attribute pad",
        needed_with="numpy >= 2.0",
        places={"attacks.Refool": (101, 103)},
        rules=(Rule("np.lib.pad", "np.pad"),),
    ),
    Patch(
        name="numpy-random-integers",
        what="np.random.randint with the upper end moved by one",
        why="deprecated, on its way out",
        needed_with="numpy >= 1.11",
        places={"attacks.Refool": (55, 56)},
        rules=(Rule("np.random.random_integers(X, Y, Z)", "np.random.randint(X, Y + 1, Z)"),),
    ),
    Patch(
        name="keep-gradients",
        what="gradients of the perturbation are zeroed, not dropped",
        why="the next crafting step writes into a gradient that is None",
        needed_with="torch >= 2.0",
        places={"attacks.SleeperAgent": (422,)},
        rules=(Rule("att_optimizer.zero_grad()", "att_optimizer.zero_grad(set_to_none=False)"),),
    ),
    Patch(
        name="hdbscan-class",
        what="the class of the package hdbscan, as imported two lines above",
        why="scikit-learn's class of the same name hides it and refuses gen_min_span_tree",
        needed_with="scikit-learn >= 1.3",
        places={"defenses.FLARE": (11,)},
        rules=(Rule("from sklearn.cluster import HDBSCAN", "from hdbscan import HDBSCAN"),),
    ),
    Patch(
        name="lpips-offline",
        what="LPIPS goes on with a random trunk, and warns, where the trunk cannot be downloaded",
        why="URLError without a network",
        needed_with="every lpips, without a network",
        places={"attacks.ISSBA": (704,)},
        rules=(Rule("lpips.LPIPS(net=X)", "_shims.perceptual_loss(lpips, X)"),),
    ),
    Patch(
        name="imageio-uint8",
        what="images are scaled to bytes before they are written",
        why="TypeError: JPEG takes no floating-point images",
        needed_with="imageio >= 2.28",
        places={"attacks.ISSBA": (1146, 1147, 1148)},
        rules=(Rule("imageio.imwrite(X, Y)", "imageio.imwrite(X, _shims.as_bytes(Y))"),),
    ),
    Patch(
        name="curves-of-package",
        what="the package's own module, imported relatively",
        why="ModuleNotFoundError unless the working folder is the clone; sys.path grows",
        needed_with="every Python, outside the clone",
        places={"models.resnet_curve": (9, 12), "models.vgg_curve": (12,)},
        rules=(
            Rule("import curves", "from . import curves"),
            Rule("sys.path.append(os.path.join(os.getcwd(), X))", "None"),
        ),
    ),
    Patch(
        name="label-shuffle",
        what="REFINE's shuffled labels are read back, still without running code from the file",
        why="a pickled numpy array is refused; during training it is loaded as if it were a module",
        needed_with="torch >= 2.6",
        places={"defenses.REFINE": (64, 145)},
        rules=(
            Rule("np.array(torch.load(X))", "_shims.load_array(X)"),
            Rule(
                "self.arr_shuffle.load_state_dict(torch.load(X), strict=False)",
                "self.arr_shuffle = _shims.load_array(X)",
            ),
        ),
    ),
    Patch(
        name="safe-load",
        what="checkpoints are read to the CPU with weights_only=True",
        why="before torch 2.6 a checkpoint can run code; those saved on a GPU need one to be read",
        needed_with="every torch",
        places={
            "attacks.Blind": (512, 689),
            "attacks.IAD": (329, 703, 706, 709),
            "attacks.ISSBA": (781, 1043, 1121, 1122),
            "attacks.LIRA": (463, 980),
            "attacks.SleeperAgent": (490,),
            "attacks.base": (142, 333),
            "defenses.AutoEncoderDefense": (46, 81, 230),
            "defenses.MCR": (143,),
            "defenses.REFINE": (62, 143),
            "defenses.ShrinkPad": (137,),
            "utils.test": (62,),
        },
        rules=(
            Rule("torch.load(X)", "torch.load(X, map_location='cpu', weights_only=True)"),
            Rule(
                "torch.load(X, map_location=Y)",
                "torch.load(X, map_location=Y, weights_only=True)",
            ),
        ),
    ),
)
