"""Repairs for machines without CUDA, and for code that assumes there is exactly one GPU.

Where upstream reads the device from a schedule, that device is used; elsewhere the device given to
``load_toolbox``.
"""

from __future__ import annotations

from invertune_plugin.adapters.backdoorbox.patch import Patch
from invertune_plugin.adapters.backdoorbox.rewriting import Rule

NO_CUDA = "every torch, without CUDA"

DEVICE_PATCHES = (
    Patch(
        name="cuda-calls",
        what="tensors and models move to the device given to load_toolbox",
        why="these classes know no schedule and call .cuda(), which raises without CUDA",
        needed_with=NO_CUDA,
        places={
            "attacks.TUAP": (593, 637),
            "defenses.FLARE": (137, 145),
            "defenses.IBD_PSC": (45, 97, 106, 130, 131, 177, 179),
            "defenses.SCALE_UP": (24, 55, 56, 69, 89, 90, 105, 141, 143, 156),
        },
        rules=(Rule("X.cuda()", "X.to(_device)"),),
    ),
    Patch(
        name="schedule-device",
        what="batches, masks and indices move to the device that the schedule asked for",
        why="the schedule says CPU, one line still says .cuda()",
        needed_with=NO_CUDA,
        places={
            "attacks.ISSBA": (704, 1136, 1136),
            "defenses.CutMix": (154,),
            "defenses.Pruning": (116, 124),
            "defenses.REFINE": (82,),
        },
        rules=(
            Rule("X.cuda()", "X.to(self.device)", inside=("get_img",)),
            Rule("X.cuda()", "X.to(label.device)", inside=("label_shuffle",)),
            Rule("lpips.LPIPS(net=X).cuda()", "lpips.LPIPS(net=X).to(device)"),
            Rule("torch.randperm(X).cuda()", "torch.randperm(X, device=device)"),
            Rule("torch.ones(X).cuda()", "torch.ones(X, device=device)"),
            Rule("model(X.cuda())", "model(X.to(device))"),
        ),
    ),
    Patch(
        name="tuap-device",
        what="the perturbation is computed on the device given to load_toolbox",
        why="the constructor takes CUDA wherever there is one, and casts to a CUDA tensor type",
        needed_with=NO_CUDA,
        places={"attacks.TUAP": (638, 664, 803)},
        rules=(
            Rule("torch.cuda.is_available()", "_device.type == 'cuda'"),
            Rule("torch.device(X if self.use_cuda else Y)", "_device"),
            Rule("torch.cuda.FloatTensor", "torch.float32"),
        ),
    ),
    Patch(
        name="issba-device",
        what="the encoder is trained and read back on the device given to load_toolbox",
        why="both functions fall back to cuda:0",
        needed_with=NO_CUDA,
        places={"attacks.ISSBA": (666, 668, 1108)},
        rules=(
            Rule("torch.device('cuda:0')", "_device", inside=("train_encoder_decoder", "get_img")),
        ),
    ),
    Patch(
        name="mask-on-cpu",
        what="masks and indices follow the scores to the CPU",
        why="tensors on the CPU cannot be indexed by tensors on CUDA",
        needed_with="every torch, on CUDA",
        places={"defenses.IBD_PSC": (134, 146, 192), "defenses.SCALE_UP": (93,)},
        rules=(
            Rule("pred_correct_mask.append(X)", "pred_correct_mask.append(X.cpu())"),
            Rule("softmax_logits[X, original_pred]", "softmax_logits[X, original_pred.cpu()]"),
        ),
    ),
)
