"""`mdmf doctor --speed`: how fast each stage is here, which one is the limit, and what to change."""

from rich.console import Console
from rich.table import Table

from mdmf_core.speed import advise
from tasks.scorers import device_label, load_kit
from tasks.speed import measure

SAMPLES = "samples/laion-mini/*.tar"
SECONDS = 3.0  # for each figure: about a minute together


def print_speed(
    console: Console,
    source: str | None,
    scorer: str,
    bank: str,
    device: str,
    storage_block: str | None,
    seconds: float = SECONDS,
) -> None:
    """Measures, and prints a table with the limit and what to change.

    Args:
        source: whose images and whose storage; None = the samples in the working folder, from this machine's disk.
        seconds: for each figure.
    """
    kit = load_kit(scorer, bank, device, 0, 0, storage_block)
    with console.status("measuring") as status:
        rates = measure(source or SAMPLES, kit, seconds, storage_block, lambda text: status.update(f"measuring: {text}"))
    advice = advise(rates)
    best = max(rates.backbone, key=lambda size: rates.backbone[size])
    batches = ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.backbone.items())
    measured = {
        "read": f"{rates.read:.1f} MB/s from {source or SAMPLES}, {rates.bytes_per_image / 1000:.0f} kB an image",
        "decode": f"{rates.decode_one:.0f} images/s by one child, {rates.decode_all:.0f} by {rates.decoders}",
        "backbone": f"by images in a batch: {batches}; best {best}",
        "score": "statistics against the bank, p-value, row",
        "land": "shards of 10,000 rows into a new warehouse",
    }
    table = Table("stage", "images/s alone", "measured", title=f"{kit.scorer.name} on {device_label(kit.scorer)}")
    for stage, rate in advice.rates.items():
        table.add_row(stage, f"{rate:,.0f}", measured[stage], style="bold red" if stage == advice.limit else None)
    console.print(table)
    how = "the stages run beside each other" if rates.on_gpu else "decoding, backbone and statistics share its cores"
    console.print(
        f"limit: [bold]{advice.limit}[/]; all stages together about {advice.images_per_second:,.0f} images/s: {how}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for change in advice.changes:
        console.print(f"* {change}", highlight=False, soft_wrap=True)
