"""The sample's third generator: a small convolutional autoencoder, trained on photographs that the sample does not use as real.

An encoder by 4 into 12 channels with latent noise, and a decoder of transposed convolutions, like a latent generator's last
stage; a patch discriminator joins in the second half. A few minutes on one core.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

PATCH, BATCH, NOISE = 64, 8, 0.03


def block(inputs: int, outputs: int, *, up: bool = False, stride: int = 1) -> nn.Sequential:
    layer = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1) if up else nn.Conv2d(inputs, outputs, 3, stride, 1)
    return nn.Sequential(layer, nn.GroupNorm(8, outputs), nn.SiLU())


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        halves = block(3, 32, stride=2), block(32, 64, stride=2)
        self.encode = nn.Sequential(*halves, block(64, 64), nn.Conv2d(64, 12, 1), nn.Tanh())
        self.decode = nn.Sequential(block(12, 64), block(64, 64), block(64, 48, up=True), nn.ConvTranspose2d(48, 3, 4, 2, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        latent = self.encode(pixels)
        return self.decode(latent + NOISE * torch.randn_like(latent))


def train(photographs: list[Image.Image], steps: int = 2000, seed: int = 2605) -> Autoencoder:
    torch.set_num_threads(1)  # such small steps are faster so
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images = [torch.from_numpy(np.asarray(photo, np.float32).transpose(2, 0, 1) / 127.5 - 1) for photo in photographs]
    model = Autoencoder()
    critic = nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 3, 1, 1)
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), 2e-3, betas=(0.5, 0.99))
    critics_optimiser = torch.optim.Adam(critic.parameters(), 4e-4, betas=(0.5, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in range(steps):
        crops = []
        for image in (images[index] for index in rng.integers(0, len(images), BATCH)):
            y, x = (int(rng.integers(0, side - PATCH + 1)) for side in image.shape[1:])
            crops.append(image[:, y : y + PATCH, x : x + PATCH])
        real = torch.stack(crops)
        fake = model(real)
        edges = sum(functional.l1_loss(fake.diff(dim=axis), real.diff(dim=axis)) for axis in (2, 3))
        loss = functional.l1_loss(fake, real) + edges
        if step > steps // 2:
            critics_loss = functional.relu(1 - critic(real)).mean() + functional.relu(1 + critic(fake.detach())).mean()
            critics_optimiser.zero_grad()
            critics_loss.backward()
            critics_optimiser.step()
            loss = loss - 0.02 * critic(fake).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(f"autoencoder step {step}: loss {float(loss.detach()):.3f}", flush=True)
    return model.eval()


@torch.inference_mode()
def reconstruct(model: Autoencoder, photo: Image.Image) -> Image.Image:
    torch.manual_seed(photo.width * photo.height)
    pixels = torch.from_numpy(np.asarray(photo, np.float32).transpose(2, 0, 1) / 127.5 - 1)[None]
    output = model(pixels)[0].add(1).mul(127.5).clamp(0, 255).round().byte()
    return Image.fromarray(output.permute(1, 2, 0).numpy())


def load_or_train(weights: Path, photographs: Callable[[], list[Image.Image]]) -> Autoencoder:
    if not weights.exists():
        torch.save(train(photographs()).state_dict(), weights)
    model = Autoencoder()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()
