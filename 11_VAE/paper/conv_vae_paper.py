"""Convolutional encoder and decoder for a variational autoencoder (level 3).

Papers: D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, for the
model; its section 7 names convolutional networks as future work. A. Radford, L. Metz, S. Chintala,
"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
2015, arXiv:1511.06434, for strided and transposed convolutions in place of pooling.

Map of this file:
    ConvConfig                      sizes
    ConvEncoder                     two strided convolutions, then mean and log-variance
    ConvDecoder                     their mirror image, with Bernoulli pixels

Put together: ``VAE(ConvEncoder(config), ConvDecoder(config), config.latents)``.

Shapes: B batch, C channels, H = W side of an image, D = H * W pixels, M hidden units, Z latents.
``...`` in front of B stands for any number of sample axes.

Read before: vae_paper.py; 03_CNN_LeNet/theory.md section 4 (the transposed convolution).

Deviations from the paper: 2013 has no convolutions. Radford et al. use batch normalisation and
other widths; here are two layers, tanh as in the rest of the chapter, and PyTorch's initial values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ConvConfig:
    """Sizes of a convolutional variational autoencoder for grey images.

    Args:
        side: H = W of the images, a multiple of 4: it is halved twice.
        channels: C of the first convolution; the second has twice as many.
        width: M, units of the linear layer between maps and latents.
        latents: Z.

    Raises:
        ValueError: a side that is no multiple of 4, or a size below 1.
    """

    side: int = 28
    channels: int = 32
    width: int = 256
    latents: int = 20

    def __post_init__(self) -> None:
        if self.side < 4 or self.side % 4:
            raise ValueError(f"expected a side that is a multiple of 4, got {self.side}")
        if min(self.channels, self.width, self.latents) < 1:
            raise ValueError(
                f"expected positive sizes, got channels {self.channels}, width {self.width}, "
                f"latents {self.latents}"
            )


class ConvEncoder(nn.Module):
    """q(z|x) from two convolutions of 4x4 with stride 2. State: ``conv1`` to ``log_var``."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        C, small = config.channels, config.side // 4
        self.side = config.side
        self.conv1 = nn.Conv2d(1, C, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(C, 2 * C, 4, stride=2, padding=1)
        self.hidden = nn.Linear(2 * C * small**2, config.width)
        self.mean = nn.Linear(config.width, config.latents)
        self.log_var = nn.Linear(config.width, config.latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance (B, Z) of x (B, D)."""
        maps = x.reshape(-1, 1, self.side, self.side)  # (B, D) -> (B, 1, H, W)
        maps = torch.tanh(self.conv1(maps))  # -> (B, C, H/2, W/2)
        maps = torch.tanh(self.conv2(maps))  # -> (B, 2C, H/4, W/4)
        h = torch.tanh(self.hidden(maps.flatten(1)))  # -> (B, M)
        return self.mean(h), self.log_var(h)


class ConvDecoder(nn.Module):
    """p(x|z) of binary pixels, the encoder in reverse. State: ``hidden`` to ``conv2``."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        C = config.channels
        self.small, self.channels = config.side // 4, 2 * C
        self.hidden = nn.Linear(config.latents, config.width)
        self.maps = nn.Linear(config.width, self.channels * self.small**2)
        # Kernel 4, stride 2, padding 1 doubles the side: 2 (H - 1) + 4 - 2 = 2 H (eq. 3.13).
        self.conv1 = nn.ConvTranspose2d(2 * C, C, 4, stride=2, padding=1)
        self.conv2 = nn.ConvTranspose2d(C, 1, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Logits (..., D) of z (..., Z)."""
        lead = z.shape[:-1]
        h = torch.tanh(self.hidden(z.reshape(-1, z.shape[-1])))  # (..., Z) -> (n, M)
        maps = torch.tanh(self.maps(h)).view(-1, self.channels, self.small, self.small)
        maps = torch.tanh(self.conv1(maps))  # (n, 2C, H/4, W/4) -> (n, C, H/2, W/2)
        return self.conv2(maps).reshape(*lead, -1)  # -> (n, 1, H, W) -> (..., D)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) (..., B) of x (B, D) and z (..., B, Z)."""
        logits = self(z)
        return -F.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        ).sum(dim=-1)

    def mean_image(self, z: Tensor) -> Tensor:
        """The probability (..., D) that each pixel is 1."""
        return torch.sigmoid(self(z))
