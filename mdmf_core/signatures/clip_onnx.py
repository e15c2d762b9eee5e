"""CLIP's image encoder from int8 ONNX, as transformers exports it, to half precision in timm's naming.

Dequantised weights are close to the original ones, not equal to them. The ONNX graph itself is no oracle for them: on
processors with AVX2 but without VNNI its int8 kernels saturate.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_EMBEDDINGS = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding.weight",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "norm_pre.weight": "pre_layrnorm.weight",
    "norm_pre.bias": "pre_layrnorm.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_BLOCK = {"attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
          "norm1": "layer_norm1", "norm2": "layer_norm2"}  # fmt: skip


def timm_weights(model: bytes) -> bytes:
    """A safetensors file with every tensor that timm's ``vit_base_patch16_clip_quickgelu_224`` expects, in float16.

    Equal input gives equal bytes on every machine: each value is one subtraction, one product and one rounding, and the
    header is written here, since libraries do not promise theirs.

    Args:
        model: the ONNX file, whose linear layers are ``MatMulInteger`` nodes with one scale and zero point a weight.

    Raises:
        ValueError: a tensor that the encoder needs is not in the file.
    """
    try:
        return _safetensors(_timm_state(_transformers_state(model)))
    except KeyError as error:
        raise ValueError(f"the ONNX file has no tensor {error}: it is not CLIP's image encoder") from error


def _transformers_state(model: bytes) -> dict[str, np.ndarray]:
    """Every tensor under its name in transformers, linear layers dequantised to float32, [outputs, inputs]."""
    import onnx  # half a second to load: only where weights are converted
    from onnx.numpy_helper import to_array

    graph = onnx.ModelProto.FromString(model).graph
    state = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            weight, zero_point = node.input[1], node.input[3]
            steps = state[weight].astype(np.float32) - state[zero_point].astype(np.float32)
            layer = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            state[f"{layer}.weight"] = (steps * state[weight.replace("_quantized", "_scale")]).T
    return state


def _timm_state(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under timm's names and in its shapes; query, key and value are one layer there."""
    vision = {name.removeprefix("vision_model."): value for name, value in state.items()}
    renamed = {ours: vision[theirs] for ours, theirs in _EMBEDDINGS.items()}
    renamed["cls_token"], renamed["pos_embed"] = renamed["cls_token"].reshape(1, 1, -1), renamed["pos_embed"][None]
    renamed["head.weight"] = vision["visual_projection.weight"]
    renamed["head.bias"] = np.zeros(len(renamed["head.weight"]), np.float32)
    layers = sum(name.endswith("layer_norm1.bias") for name in vision)
    for layer in (f"encoder.layers.{index}" for index in range(layers)):
        block = layer.replace("encoder.layers", "blocks")
        for kind in ("weight", "bias"):
            renamed[f"{block}.attn.qkv.{kind}"] = np.concatenate([vision[f"{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"])
            renamed |= {f"{block}.{ours}.{kind}": vision[f"{layer}.{theirs}.{kind}"] for ours, theirs in _BLOCK.items()}
    return renamed


def _safetensors(state: Mapping[str, np.ndarray]) -> bytes:
    """The tensors in float16, in the order of their names."""
    halves = {name: np.ascontiguousarray(state[name], dtype="<f2") for name in sorted(state)}
    header: dict[str, Any] = {}
    end = 0
    for name, value in halves.items():
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [end, end + value.nbytes]}
        end += value.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(value.tobytes() for value in halves.values())])
