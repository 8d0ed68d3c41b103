"""Repairs of lines that raise on every stack; science that merely looks odd is left alone."""

from __future__ import annotations

from invertune_plugin.adapters.backdoorbox.patch import Patch
from invertune_plugin.adapters.backdoorbox.rewriting import Rule

ALWAYS = "every version"

UPSTREAM_PATCHES = (
    Patch(
        name="blind-learning-rate",
        what="the learning rate is set once an epoch",
        why="TypeError: the base class wants a step and the number of steps (issue 110)",
        needed_with=ALWAYS,
        places={"attacks.Blind": (577,)},
        rules=(Rule("self.adjust_learning_rate(X, Y)", "self.adjust_learning_rate(X, Y, 0, 1)"),),
    ),
    Patch(
        name="blind-pretrain",
        what="the checkpoint is read without an argument that torch.load never had",
        why="TypeError when the schedule has 'pretrain'",
        needed_with=ALWAYS,
        places={"attacks.Blind": (512,)},
        rules=(Rule("torch.load(X, strict=False)", "torch.load(X)"),),
    ),
    Patch(
        name="test-schedule",
        what="test() takes the schedule it was given",
        why="AttributeError when constructor and test() both have a schedule",
        needed_with=ALWAYS,
        places={"attacks.Blind": (680,), "attacks.IAD": (690,)},
        rules=(Rule("self.schedule", "self.global_schedule", inside=("test",)),),
    ),
    Patch(
        name="own-poisoned-set",
        what="test() without data sets takes the poisoned set that training left",
        why="AttributeError: an attribute that is never set",
        needed_with=ALWAYS,
        places={"attacks.ISSBA": (1047,), "attacks.LIRA": (984,)},
        rules=(
            Rule("self.poisoned_test_dataset", "self.get_poisoned_dataset()[1]", inside=("test",)),
        ),
    ),
    Patch(
        name="issba-workers",
        what="images are loaded by as many processes as the schedule says",
        why="eight are started at each of five places, one image at a time",
        needed_with=ALWAYS,
        places={"attacks.ISSBA": (693, 819, 825, 977, 1128)},
        rules=(
            Rule(
                "DataLoader(A, batch_size=B, shuffle=C, num_workers=8, worker_init_fn=D)",
                "DataLoader(A, batch_size=B, shuffle=C, worker_init_fn=D, "
                "num_workers=(self.current_schedule or {}).get('num_workers', 0))",
            ),
            Rule(
                "DataLoader(A, batch_size=B, shuffle=C, num_workers=8, drop_last=D, pin_memory=E)",
                "DataLoader(A, batch_size=B, shuffle=C, drop_last=D, pin_memory=E, "
                "num_workers=(self.current_schedule or {}).get('num_workers', 0))",
            ),
        ),
    ),
    Patch(
        name="sleeper-agent-test",
        what="the loss that the base class returns as a third value is dropped",
        why="ValueError: too many values to unpack",
        needed_with=ALWAYS,
        places={"attacks.SleeperAgent": (343, 349, 356, 457, 461, 465, 469)},
        rules=(Rule("self._test(A, B, C, D, E)", "self._test(A, B, C, D, E)[:2]"),),
    ),
    Patch(
        name="scale-up-threshold",
        what="a threshold that was given is kept",
        why="AttributeError: T is only set without one",
        needed_with=ALWAYS,
        places={"defenses.SCALE_UP": (28,)},
        rules=(
            Rule(
                "if threshold is None: self.T = X", "self.T = X if threshold is None else threshold"
            ),
        ),
    ),
    Patch(
        name="one-class-matrix",
        what="the confusion matrix has two rows whatever was found",
        why="ValueError when all samples are of one kind",
        needed_with=ALWAYS,
        places={"defenses.IBD_PSC": (169,), "defenses.SCALE_UP": (132,)},
        rules=(
            Rule("metrics.confusion_matrix(X, Y)", "metrics.confusion_matrix(X, Y, labels=[0, 1])"),
        ),
    ),
    Patch(
        name="refine-predict",
        what="predict() runs the network once over the data it was given",
        why="NameError: it passes a model it does not have, and one argument too many",
        needed_with=ALWAYS,
        places={"defenses.REFINE": (314, 336)},
        rules=(
            Rule("self.preprocess(data)", "data", inside=("predict",)),
            Rule("self._predict(model, X, A, B, C)", "self._predict(X, A, B)"),
        ),
    ),
    Patch(
        name="abl-filtered-set",
        what="the isolated images are kept",
        why="get_filtered_poisoned_dataset() always raises",
        needed_with=ALWAYS,
        places={"defenses.ABL": (208,)},
        rules=(
            Rule(
                "poisoned_dataset = X",
                "poisoned_dataset = self.poisoned_dataset = X",
                inside=("train",),
            ),
        ),
    ),
    Patch(
        name="flare-predictions",
        what="which training images were flagged is kept",
        why="detect() prints rates and returns nothing",
        needed_with=ALWAYS,
        places={"defenses.FLARE": (332,)},
        rules=(Rule("y_preds = X", "y_preds = self.y_preds = X"),),
    ),
)
