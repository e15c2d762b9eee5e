"""`build-bank`: a collection of real images in, a reference bank with its calibration out."""

from typing import Annotated

from prefect import flow, get_run_logger
from pydantic import Field

from tasks import steps
from tasks.banks import BuiltBank


@flow(name="build-bank")
def build_bank(
    source: str,
    directory: str,
    scorer: str = "default",
    points: Annotated[int, Field(ge=2)] = 1000,
    max_images: Annotated[int, Field(ge=4)] = 2000,
    domain: str = "photo",
    device: str = "auto",
    storage_block: str | None = None,
) -> BuiltBank:
    """Builds a bank on half of the images and calibrates it on the other half.

    Args:
        source: a collection of images that are known to be real, of the kind that will be scored: same compression, sizes.
        directory: where the bank is written; local or s3://. Must not exist.
        scorer: as for `curate`.
        points: patches that the bank is compressed to.
        max_images: images read at most.
        domain: what the images are, such as photo, face or art.
    """
    result = steps.build_bank(source, directory, scorer, points, max_images, domain, device, storage_block)
    get_run_logger().info(
        "bank %s: %d images, %d points (coreset error %.4f), calibrated on %d images; %d excluded",
        result.directory, result.bank_images, result.points, result.coreset_error, result.calibration_images, result.excluded,
    )  # fmt: skip
    return result
