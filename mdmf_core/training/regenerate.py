"""Regenerated photographs: real pixels through small image generators, as extra generated examples.

A training set holds few generators, and each shows its own subjects. A photograph that went through an autoencoder or an
upsampler shows the same subject as before, so only the generator's traces tell the two apart. The small networks here use the
upsampling operators of published generators and are trained on the user's own real images in some minutes.

Sources: Zhang, Karaman, Chang, "Detecting and Simulating Artifacts in GAN Fake Images" (WIFS 2019); Ricker, Lukovnikov,
Fischer, "AEROBLADE" (CVPR 2024); Rajan et al., "Aligned Datasets Improve Detection of Latent Diffusion-Generated Images"
(2024).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu, softplus

TILE = 64  # side of a training tile, px
_BATCH = 12
_NOISE = 0.03  # on the latent, so that the decoder has to invent fine detail


@dataclass(frozen=True)
class RegeneratorSpec:
    """One kind of generator: ``levels`` doublings by one upsampling operator; ``adversarial`` weighs the discriminator."""

    upsampling: str
    levels: int
    width: int
    latent: int
    adversarial: float
    super_resolution: bool = False


SPECS = {
    "autoencoder-4-transposed": RegeneratorSpec("transposed4", 2, 32, 8, 0.0),
    "autoencoder-4-transposed-3": RegeneratorSpec("transposed3", 2, 32, 8, 0.02),
    "autoencoder-4-nearest": RegeneratorSpec("nearest", 2, 32, 8, 0.02),
    "autoencoder-4-bilinear": RegeneratorSpec("bilinear", 2, 32, 8, 0.02),
    "autoencoder-8-nearest": RegeneratorSpec("nearest", 3, 32, 16, 0.03),
    "autoencoder-2-transposed": RegeneratorSpec("transposed4", 1, 24, 4, 0.02),
    "upsampler-4-shuffle": RegeneratorSpec("shuffle", 2, 32, 3, 0.02, super_resolution=True),
    "upsampler-4-nearest": RegeneratorSpec("nearest", 2, 32, 3, 0.03, super_resolution=True),
    "upsampler-2-transposed": RegeneratorSpec("transposed4", 1, 24, 3, 0.02, super_resolution=True),
}


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(silu(self.first(silu(x))))  # type: ignore[no-any-return]


def _upsampler(kind: str, width: int) -> nn.Module:
    match kind:
        case "transposed4":
            return nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        case "transposed3":
            return nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1)
        case "shuffle":
            return nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        case "nearest" | "bilinear":
            return nn.Sequential(nn.Upsample(scale_factor=2, mode=kind), nn.Conv2d(width, width, 3, padding=1))
        case _:
            raise ValueError(f"upsampling must be transposed4, transposed3, shuffle, nearest or bilinear, got {kind!r}")


class Regenerator(nn.Module):
    """Images in [-1, 1] with sides that are multiples of 8 to the same picture, regenerated."""

    def __init__(self, spec: RegeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        layers: list[nn.Module] = [nn.Conv2d(3, spec.width, 3, padding=1)]
        for _ in range(spec.levels):
            layers += [nn.SiLU(), nn.Conv2d(spec.width, spec.width, 4, stride=2, padding=1)]
        self.encoder = nn.Sequential(*layers, _Residual(spec.width), nn.Conv2d(spec.width, spec.latent, 1))
        self.head = nn.Sequential(nn.Conv2d(spec.latent, spec.width, 3, padding=1), _Residual(spec.width))
        self.rise = nn.Sequential(
            *(nn.Sequential(_upsampler(spec.upsampling, spec.width), _Residual(spec.width)) for _ in range(spec.levels))
        )
        self.out = nn.Conv2d(spec.width, 3, 3, padding=1)

    def forward(self, images: Float[Tensor, "n 3 h w"], noise: torch.Generator | None = None) -> Float[Tensor, "n 3 h w"]:
        if self.spec.super_resolution:
            latent = interpolate(images, scale_factor=0.5**self.spec.levels, mode="bicubic", antialias=True)
        else:
            latent = torch.tanh(self.encoder(images))
            latent = latent + _NOISE * torch.randn(latent.shape, generator=noise)
        result: Tensor = self.out(silu(self.rise(self.head(latent))))
        return result


def train_regenerator(spec: RegeneratorSpec, tiles: UInt8[np.ndarray, "n h w 3"], steps: int, seed: int) -> Regenerator:
    """Fits one network on real tiles: L1 on pixels and on their differences, and, where named, a patch discriminator.

    Raises:
        ValueError: tiles smaller than 64 px, or none.
    """
    if not len(tiles) or min(tiles.shape[1:3]) < TILE:
        raise ValueError(f"regenerators train on tiles of at least {TILE} px, got an array of shape {tiles.shape}")
    with torch.random.fork_rng(devices=[]):  # the layers' own initialisation draws from the global generator
        torch.manual_seed(seed)
        network = Regenerator(spec).to(memory_format=torch.channels_last)
        judge = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 3, padding=1),
        )  # fmt: skip
    random, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3, betas=(0.5, 0.99))
    judge_optimizer = torch.optim.Adam(judge.parameters(), 4e-4, betas=(0.5, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(steps):
        real = _batch(tiles, random)
        made = network(real, noise)
        loss = (made - real).abs().mean() + sum((made.diff(dim=d) - real.diff(dim=d)).abs().mean() for d in (2, 3))
        if spec.adversarial and step > 0.4 * steps:
            judge_optimizer.zero_grad()
            (softplus(judge(made.detach())).mean() + softplus(-judge(real)).mean()).backward()  # type: ignore[no-untyped-call]
            judge_optimizer.step()
            loss = loss + spec.adversarial * softplus(-judge(made)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def _batch(tiles: UInt8[np.ndarray, "n h w 3"], random: np.random.Generator) -> Float[Tensor, "b 3 64 64"]:
    picks = random.integers(len(tiles), size=_BATCH)
    tops = random.integers(tiles.shape[1] - TILE + 1, size=_BATCH)
    lefts = random.integers(tiles.shape[2] - TILE + 1, size=_BATCH)
    cut = [tiles[p, top : top + TILE, left : left + TILE] for p, top, left in zip(picks, tops, lefts, strict=True)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def regenerate(
    network: Regenerator, pixels: UInt8[np.ndarray, "h w 3"], keep: float, random: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture regenerated at the same size; ``keep`` in [0, 1] of the lost detail is added back."""
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="reflect")
    original = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1
    made = network(original, torch.Generator().manual_seed(int(random.integers(2**31))))
    mixed = made + keep * (original - made)
    levels = ((mixed[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return np.ascontiguousarray(levels[:height, :width])


def match_spectrum(original: UInt8[np.ndarray, "h w 3"], target: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """``original`` filtered to the radial power spectrum of ``target``: as smooth as it, without its traces.

    Regenerated images lose fine detail; without such counterparts "smooth" would come to mean "generated".
    """
    height, width, _ = original.shape
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    ring = np.minimum((radius * 64).astype(int), 45)
    spectra = [np.fft.rfft2(image.astype(np.float32), axes=(0, 1)) for image in (original, target)]
    power = [np.bincount(ring.ravel(), (np.abs(spectrum) ** 2).sum(-1).ravel(), 46) for spectrum in spectra]
    gain = np.sqrt(power[1] / np.maximum(power[0], 1e-6)).clip(0.05, 1.5)
    gain[0] = 1.0
    filtered = np.fft.irfft2(spectra[0] * gain[ring][..., None], s=(height, width), axes=(0, 1))
    return np.clip(np.rint(filtered), 0, 255).astype(np.uint8)
