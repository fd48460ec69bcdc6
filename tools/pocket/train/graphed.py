"""A denoiser's optimizer step that can be recorded as one CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.pocket.train.batches import degraded, drop_captions
from tools.pocket.train.denoiser import Trainer
from tools.pocket.train.networks import LEVELS

# Steps before a CUDA graph is captured: libraries choose their kernels in them.
EAGER_STEPS = 3


class Step:
    """One optimizer step on buffers that stay where they are, so that it can be a CUDA graph.

    latents, noise: (n, c, h, w); words (n, 32, width); contours (n / 2, 3, 8h, 8w); times (n,).
    """

    def __init__(self, trainer: Trainer, size: int, averaged: float, graphed: bool) -> None:
        self.trainer, self.size, self.decay = trainer, size, averaged
        self.device = trainer.shelf.latents.device
        cuda = self.device.type == "cuda"
        # A graph reads the rate from memory.
        self.rate = torch.tensor(0.0, device=self.device)
        self.optimizer = torch.optim.AdamW(
            trainer.parameters, lr=self.rate, betas=(0.9, 0.99), weight_decay=1e-2,
            fused=True, capturable=cuda,
        )  # fmt: skip
        self.loss = torch.zeros((), device=self.device)
        self.buffers: dict[str, Tensor] = {}
        self.graph: torch.cuda.CUDAGraph | None = None
        self.taken, self.graphed = 0, graphed and cuda

    def fill(self, words: Tensor, empty: Tensor) -> None:
        """Draw a batch into the buffers. words: last hidden states of every row; empty: of ""."""
        shelf, rows, n = self.trainer.shelf, self.trainer.rows, self.size
        device = self.device
        chosen = rows[torch.randint(len(rows), (n,), device=device)]
        copies = torch.randint(shelf.latents.shape[1], (n,), device=device)
        shown = shelf.contours[chosen[: n // 2], copies[: n // 2]]
        latents = shelf.latents[chosen, copies].float()
        batch = {
            "latents": latents,
            "noise": torch.randn_like(latents),
            "words": drop_captions(words[chosen].flatten(1), empty.flatten(), self._generator())
            .view(n, *words.shape[1:])
            .float(),
            "times": torch.randint(LEVELS, (n,), device=device),
            "contours": degraded(shown, self._generator()),
        }
        if not self.buffers:
            self.buffers = {name: value.clone() for name, value in batch.items()}
        for name, value in batch.items():
            self.buffers[name].copy_(value)

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(int(torch.randint(2**31, ())))

    def _work(self) -> None:
        b, trainer = self.buffers, self.trainer
        alpha_bar = trainer.alphas_bar[b["times"]].view(-1, 1, 1, 1)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noisy = alpha * b["latents"] + sigma * b["noise"]
        wanted = alpha * b["noise"] - sigma * b["latents"]
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=noisy.is_cuda):
            drawn = trainer.model.read(noisy, b["times"], b["words"], b["contours"])
        loss = (drawn.float() - wanted).square().mean()
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        nn.utils.clip_grad_norm_(trainer.parameters, 1.0, foreach=True)
        self.optimizer.step()
        own = [p.detach() for p in trainer.parameters]
        torch._foreach_lerp_(trainer.average.values, own, 1 - self.decay)
        self.loss.copy_(loss.detach())

    def take(self, rate: float) -> Tensor:
        """One step at `rate`; returns the loss, [], of which the next step makes another."""
        self.rate.fill_(rate)
        if self.graph is not None:
            self.graph.replay()
        elif self.graphed and self.taken >= EAGER_STEPS:
            self._capture()
        else:
            self._work()
        self.taken += 1
        return self.loss

    def _capture(self) -> None:
        """Record the step. A recording does no work: the step is replayed once for this call."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._work()
        self.graph = graph
        graph.replay()
