"""Frames (n, H, W) in 0..1 <-> standardised codes (n, k): principal components, or a convolutional autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PcaCodec(nn.Module):
    """Principal components, each in its standard deviation over the training frames; linear both ways."""

    mean: Tensor
    components: Tensor
    sd: Tensor

    def __init__(self, height: int, width: int, codes: int) -> None:
        super().__init__()
        self.shape = (height, width)
        self.register_buffer("mean", torch.zeros(height * width))
        self.register_buffer("components", torch.zeros(codes, height * width))
        self.register_buffer("sd", torch.ones(codes))

    def encode(self, frames: Tensor) -> Tensor:
        """Codes (..., k) of frames (..., H, W)."""
        return (frames.flatten(-2) - self.mean) @ self.components.T / self.sd

    def decode(self, codes: Tensor) -> Tensor:
        """Frames (..., H, W) of codes (..., k)."""
        flat = (codes * self.sd) @ self.components + self.mean
        return flat.reshape(*codes.shape[:-1], *self.shape)


class ConvCodec(nn.Module):
    """Convolutional autoencoder: for camera frames, whose parts move over textures that no sum of pictures describes.

    Two halvings of the frame, which is filled up to multiples of 4 with its edge. ``mean`` and ``sd`` (k,) standardise the codes.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, height: int, width: int, codes: int, channels: int = 16) -> None:
        super().__init__()
        self.shape, self._fill = (height, width), (0, -width % 4, 0, -height % 4)
        inner = (2 * channels, -(-height // 4), -(-width // 4))
        flat = inner[0] * inner[1] * inner[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(flat, codes),
        )
        self.decoder = nn.Sequential(
            nn.Linear(codes, flat),
            nn.Unflatten(1, inner),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1),
        )
        self.register_buffer("mean", torch.zeros(codes))
        self.register_buffer("sd", torch.ones(codes))

    def encode(self, frames: Tensor) -> Tensor:
        """Codes (..., k) of frames (..., H, W)."""
        raw = self.encoder(nn.functional.pad(frames.reshape(-1, 1, *frames.shape[-2:]), self._fill, mode="replicate"))
        return ((raw - self.mean) / self.sd).reshape(*frames.shape[:-2], -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Frames (..., H, W) of codes (..., k)."""
        raw = codes.flatten(0, -2) * self.sd + self.mean
        height, width = self.shape
        return self.decoder(raw)[:, 0, :height, :width].reshape(*codes.shape[:-1], *self.shape)


FrameCodec = PcaCodec | ConvCodec
