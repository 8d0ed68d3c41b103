"""A toolbox of BackdoorBox's shape with none of its code: what the loader has to cope with."""

from __future__ import annotations

import subprocess
from pathlib import Path

FILES = {
    "core/__init__.py": "from .attacks import *\nfrom .defenses import *\nfrom .models import *\n",
    "core/attacks/__init__.py": """
        from .BadNets import BadNets
        from .TUAP import TUAP
        from .BAAT import BAAT
        from .ISSBA import ISSBA
        __all__ = ["BadNets", "TUAP", "BAAT", "ISSBA"]
    """,
    "core/attacks/base.py": "class Base:\n    pass\n",
    "core/attacks/BadNets.py": """
        import sys
        from .base import *

        class Poisoned:
            "A data set that tells what its process has imported."
            def __len__(self):
                return 2
            def __getitem__(self, index):
                return index, int("core.defenses.Pruning" in sys.modules)

        class BadNets(Base):
            pass
    """,
    "core/attacks/TUAP.py": """
        from torch.autograd.gradcheck import zero_gradients
        from .base import *

        class TUAP(Base):
            clear = staticmethod(zero_gradients)
    """,
    "core/attacks/BAAT.py": """
        import sys
        sys.path.insert(0, "somewhere")
        half = "executed"
        import a_module_that_nobody_has

        class BAAT:
            pass
    """,
    "core/attacks/ISSBA.py": "from lpips import missing\nclass ISSBA:\n    pass\n",
    "core/defenses/__init__.py": """
        from .Pruning import Pruning
        from .FLARE import FLARE
        from .MCR import MCR
        __all__ = ["Pruning", "FLARE", "MCR"]
    """,
    "core/defenses/base.py": "class Base:\n    pass\n",
    "core/defenses/Pruning.py": r"""
        import torch
        from .base import Base
        ODD = '\_'

        class Pruning(Base):
            def mask(self, device):
                return torch.ones(3).cuda()
    """,
    "core/defenses/FLARE.py": "from .base import Base\nclass FLARE(Base):\n    pass\n",
    "core/defenses/MCR.py": "from ..models.resnet_curve import bend\nclass MCR:\n    bend = bend\n",
    "core/defenses/Spectral.py": "class Spectral:\n    pass\n",
    "core/models/__init__.py": "from .resnet import ResNet\n",
    "core/models/resnet.py": "class ResNet:\n    pass\n",
    "core/models/curves.py": "def bend():\n    return 'bent'\n",
    "core/models/resnet_curve.py": """
        import sys, os
        sys.path.append(os.path.join(os.getcwd(), "core/models"))
        import curves
        bend = curves.bend
    """,
    "core/utils/__init__.py": "from .test import test\n",
    "core/utils/test.py": "def _seed_worker(worker):\n    pass\ndef test():\n    pass\n",
}


def write_toolbox(folder: Path) -> Path:
    """Write the fake toolbox and return its root."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        path.write_text("\n".join(line[indent:] for line in lines), encoding="utf-8")
    return folder


def commit(folder: Path) -> None:
    """Make a git repository of it."""
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
