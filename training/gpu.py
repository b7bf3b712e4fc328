"""Train the embedded networks on one GPU: networks, data, losses and optimizer pair of `dit` and `sd3`, in minutes.

What differs: pictures and captions lie on the GPU and are drawn there, all at full size; the optimizer works on stacks
of equal matrices; and one whole step is a CUDA graph, so that a network this small is not waiting for Python. Several
of these may share a GPU as processes of their own.

    python -m training.gpu dit --data emoji32.npz --out dit --minutes 9 --keep 400000
    python -m training.gpu sd3 --data emoji32.npz --out sd3 --minutes 9
    python -m training.gpu dit --data digits32.npz --out digits --minutes 3
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tracer.denoisers.embedded.words import CONTEXT, tokenize
from training import dit, sd3
from training.common import Emoji, load, vocabulary

BLOCKS = "transformer_blocks"


class Pictures:
    """The training split on the device. `draw(n)` gives (rows of the split, pictures in [-1, 1], labels)."""

    def __init__(self, data: Emoji, device: torch.device):
        rows = data.rows("train")
        sided = "hand" in data.classes  # a data set without hands is one of digits: no mirror images
        mirrored = data.flippable()[rows] if sided else torch.zeros(len(rows), dtype=torch.bool)
        self.pixels, self.label = data.pixels[rows].to(device), data.label[rows].to(device)
        self.mirrored, self.share = mirrored.to(device), data.balance(rows).double().cumsum(0).to(device)

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """n pictures by their weight, half of those that may be are mirrored."""
        device = self.pixels.device
        at = torch.rand(n, device=device, dtype=torch.float64) * self.share[-1]
        rows = torch.searchsorted(self.share, at).clamp(max=len(self.share) - 1)
        pictures = self.pixels[rows].float() / 127.5 - 1
        flipped = (torch.rand(n, device=device) < 0.5) & self.mirrored[rows]
        return rows, torch.where(flipped.view(-1, 1, 1, 1), pictures.flip(-1), pictures), self.label[rows]


def dit_loss(model: nn.Module, pictures: Pictures, null: int) -> Callable[[int], Tensor]:
    """The loss of `training.dit` on n pictures: stratified times, 10% of the labels dropped."""
    device = pictures.pixels.device
    diffusion = dit.Diffusion()
    for name, table in vars(diffusion).items():
        setattr(diffusion, name, table.to(device))

    def loss(n: int) -> Tensor:
        _, x0, label = pictures.draw(n)
        label = torch.where(torch.rand(n, device=device) < 0.1, null, label)
        t = (torch.arange(n, device=device) + torch.rand(n, device=device)) / n * dit.STEPS
        t = t.long().clamp(max=dit.STEPS - 1)
        eps = torch.randn_like(x0)
        with torch.autocast(device.type, torch.bfloat16):
            output = model(diffusion.noised(x0, eps, t), timestep=t, class_labels=label).sample
        return diffusion.loss(output.float(), eps, t)

    return loss


class Captions:
    """Token ids of every picture's four captions (name or class, each with or without its style), and of no caption."""

    def __init__(self, data: Emoji, known: dict[str, int], context: int, device: torch.device):
        rows = data.rows("train").tolist()
        names = [[data.caption[row], data.classes[data.label[row]]] for row in rows]
        styles = [f" {data.style[row]} style" for row in rows]
        texts = [
            text for both, style in zip(names, styles, strict=True) for name in both for text in (name, name + style)
        ]
        self.ids = tokenize(texts, known, context).view(len(rows), 4, context).to(device)
        self.empty = tokenize([""], known, context).to(device)

    def draw(self, rows: Tensor) -> Tensor:
        """One caption per row with the chances of `training.sd3`: name 85%, style 60%, nothing 10%."""
        chance = torch.rand(3, len(rows), device=rows.device)
        which = 2 * (chance[0] >= 0.85).long() + (chance[1] < 0.6).long()
        return torch.where((chance[2] < 0.1).unsqueeze(1), self.empty, self.ids[rows, which])


def sd3_loss(model: nn.Module, pictures: Pictures, captions: Captions) -> Callable[[int], Tensor]:
    """The loss of `training.sd3` on n pictures: rectified flow at logit-normal times."""
    device = pictures.pixels.device

    def loss(n: int) -> Tensor:
        rows, x0, _ = pictures.draw(n)
        moment = torch.sigmoid(torch.randn(n, device=device))
        eps = torch.randn_like(x0)
        mix = moment.view(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16):
            velocity = model((1 - mix) * x0 + mix * eps, moment, captions.draw(rows))
        return F.mse_loss(velocity.float(), eps - x0)

    return loss


def orthogonal(stack: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix of each in a stack [n, rows, columns], roughly: Muon's five Newton-Schulz
    steps in bfloat16 (Jordan et al. 2024), with the coefficients of `torch.optim.Muon`.
    """
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if tall else stack).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.mT if tall else x).float()


class Trainer:
    """As `common.Trainer`: Muon on the blocks' matrices, AdamW elsewhere, clipped gradients, a moving average.

    `step` is one update and asks the host for nothing; `rate` and `keep` (of the average) are numbers on the device.
    """

    def __init__(self, module: nn.Module, loss: Callable[[int], Tensor], batch: int):
        named = dict(module.named_parameters())
        device = next(iter(named.values())).device
        self.module, self.loss, self.batch = module, loss, batch
        self.average = copy.deepcopy(module).requires_grad_(False)
        self.rate, self.keep = torch.zeros((), device=device), torch.zeros((), device=device)
        self.total = torch.zeros((), device=device)
        shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in named.items():
            if parameter.ndim == 2 and BLOCKS in name and "embedding" not in name:
                shapes[parameter.shape].append(parameter)
        self.matrices = list(shapes.values())
        self.momenta = [torch.zeros(len(same), *same[0].shape, device=device) for same in self.matrices]
        chosen = {id(p) for same in self.matrices for p in same}
        rest = [p for p in named.values() if id(p) not in chosen]
        on_gpu = device.type == "cuda"
        self.adam = torch.optim.AdamW(
            rest, lr=self.rate if on_gpu else 0.0, betas=(0.9, 0.98), weight_decay=0.0, capturable=on_gpu, fused=on_gpu
        )

    def step(self) -> None:
        """Gradient, both optimizers, average."""
        for parameter in self.module.parameters():
            parameter.grad = None
        loss = self.loss(self.batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        with torch.no_grad():
            self.total += loss.detach()
            self._muon()
            if not isinstance(self.adam.param_groups[0]["lr"], Tensor):
                self.adam.param_groups[0]["lr"] = float(self.rate)
            self.adam.step()
            mean, new = list(self.average.parameters()), list(self.module.parameters())
            torch._foreach_mul_(mean, self.keep)
            torch._foreach_add_(mean, torch._foreach_mul(new, 1 - self.keep))

    def _muon(self, decay: float = 0.01, momentum: float = 0.95) -> None:
        for same, kept in zip(self.matrices, self.momenta, strict=True):
            gradient = torch.stack([p.grad for p in same])
            kept.lerp_(gradient, 1 - momentum)
            update = orthogonal(gradient.lerp(kept, momentum))
            scale = 0.2 * max(same[0].shape) ** 0.5  # "match_rms_adamw"
            torch._foreach_mul_(same, 1 - decay * self.rate)
            torch._foreach_sub_(same, list((scale * self.rate * update).unbind()))

    def graphed(self) -> Callable[[], None]:
        """`step` as one CUDA graph after three ordinary ones; without a GPU just `step`."""
        if self.rate.device.type != "cuda":
            return self.step
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


def train(
    trainer: Trainer,
    minutes: float,
    lr: float,
    save: Callable[[str, dict], None],
    keep: Sequence[int],
    every: int = 500,
) -> dict:
    """Steps until the time is up, which runs from now, compilers included: constant rate, linear decay to zero over the
    second half. Returns what was done.

    `save(suffix, facts)` is called at these numbers of images and at the end.
    """
    trainer.rate.fill_(lr / 100)
    start = time.time()
    step = trainer.graphed()
    prepared = time.time() - start
    wanted, curve, n = sorted(keep), [], 0
    start = time.time()
    while (fraction := (time.time() - start) / (60 * minutes - prepared)) < 1:
        trainer.rate.fill_(lr * min(1.0, (n + 1) / 100) * min(1.0, 2 * (1 - fraction)))
        trainer.keep.fill_(min(0.9995, (1 + n) / (20 + n)))
        step()
        n += 1
        if n % 10 == 0 and trainer.rate.device.type == "cuda":
            torch.cuda.synchronize()  # the clock above is that of the GPU's work
        if n % every == 0:
            loss, images = float(trainer.total) / every, n * trainer.batch
            trainer.total.zero_()
            curve.append((images, round(loss, 5)))
            rate = images / (time.time() - start)
            print(
                f"{100 * fraction:3.0f}%  {n} steps  {images / 1e6:.2f} M images  loss {loss:.4f}  {rate:.0f}/s",
                flush=True,
            )
        if wanted and n * trainer.batch >= wanted[0]:
            save(f"-{wanted.pop(0)}", {"steps": n, "images": n * trainer.batch})
    seconds = time.time() - start
    facts = {"steps": n, "images": n * trainer.batch, "seconds": round(seconds, 1), "prepared": round(prepared, 1)}
    facts |= {"batch": trainer.batch, "lr": lr, "loss": curve, "device": str(trainer.rate.device)}
    if trainer.rate.device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name()
    save("", facts)
    return facts


def saved_dit(average: nn.Module, classes: Sequence[str], out: Path) -> Callable[[str, dict], None]:
    """Writes the average in half precision as diffusers does, its class names, and what training came to."""

    def save(suffix: str, facts: dict) -> None:
        folder = out.with_name(out.name + suffix)
        copy.deepcopy(average).half().save_pretrained(folder)
        (folder / "classes.json").write_text(json.dumps(list(classes)) + "\n")
        (folder / "training.json").write_text(json.dumps(facts) + "\n")

    return save


def saved_sd3(average: nn.Module, known: dict[str, int], out: Path) -> Callable[[str, dict], None]:
    """The same for a transformer with its words."""

    def save(suffix: str, facts: dict) -> None:
        folder = out.with_name(out.name + suffix)
        half = copy.deepcopy(average).half()
        half.transformer.save_pretrained(folder / "transformer")
        save_file(half.text.state_dict(), folder / "words.safetensors")
        (folder / "vocabulary.json").write_text(json.dumps(known))
        (folder / "sampling.json").write_text(json.dumps({"steps": 28, "guidance": 3.0, "shift": 1.0}) + "\n")
        (folder / "training.json").write_text(json.dumps(facts) + "\n")

    return save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["dit", "sd3"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument(
        "--context", type=int, default=CONTEXT, help="text tokens of the sd3; what is longer is padding"
    )
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--keep", type=int, nargs="*", default=[], help="also save after so many images")
    parser.add_argument("--compile", action="store_true", help="fuse each block's small operations (a minute to begin)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    device = torch.device(args.device)

    data = load(args.data)
    pictures = Pictures(data, device)
    if args.network == "dit":
        model = dit.build(args.width, args.heads, args.layers, len(data.classes)).to(device)
        blocks = model.transformer_blocks
        trainer = Trainer(model, dit_loss(model, pictures, len(data.classes)), args.batch)
        save = saved_dit(trainer.average, data.classes, args.out)
    else:
        rows = data.rows("train")
        known = vocabulary([*data.caption[rows], *data.classes], set(data.style.tolist()))
        model = sd3.TextToImage(len(known) + 3, args.width, args.heads, args.layers)
        model.text = sd3.WordEncoder(len(known) + 3, args.width, args.context)
        model = model.to(device)
        blocks = model.transformer.transformer_blocks
        trainer = Trainer(model, sd3_loss(model, pictures, Captions(data, known, args.context, device)), args.batch)
        save = saved_sd3(trainer.average, known, args.out)
    if args.compile:
        for block in blocks:
            block.compile()
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(pictures.label)} images", flush=True
    )
    facts = train(trainer, args.minutes, args.lr, save, args.keep)
    print(f"done: {facts['steps']} steps, {facts['images']} images, {facts['seconds']} s after {facts['prepared']} s")


if __name__ == "__main__":
    main()
