"""The page that `mdmf evaluate` writes: figures by generator, controls and plots."""

from collections.abc import Mapping, Sequence

from mdmf_core.training.evaluation import Control, Figure, markdown
from mdmf_core.training.matched import MatchedFigure, matched_markdown


def evaluation_page(
    record: Mapping[str, object],
    tables: Mapping[str, Sequence[Figure]],
    matched: Sequence[MatchedFigure],
    controls: Sequence[Control],
    scorer: str,
    source: str,
) -> str:
    parts = [f"# Evaluation of `{scorer}` on `{source}`\n", "| | |\n|---|---|"]
    parts += [f"| {name} | {record[name]} |" for name in ("scorer_id", "bank_id", "images", "code_version")]
    parts.append("\n## Controls\n")
    parts += [f"* {'holds' if c.holds else '**BROKEN**'}: {c.name}: {c.detail}" for c in controls]
    parts.append(
        "\nEvery image of both classes passes a random crawl (cut, resize, JPEG 75 to 95) unless a title says otherwise. "
        "AP depends on the prevalence beside it."
    )
    for name, figures in tables.items():
        parts.append(f"\n## {name}\n\n{markdown(figures)}")
    if matched:
        parts.append(f"\n## Content-matched: generated / real images of the same subjects\n\n{matched_markdown(matched)}")
    parts.append("![AUROC per generator](generators.png)\n\n## Robustness, all groups\n")
    parts.append("| condition | images | AUROC | neutral protocol on the same images | TPR at 5 % |\n|---|---:|---:|---:|---:|")
    parts += [
        f"| {r['condition']} | {r['images']} | {r['auroc']:.3f} | {r['neutral']:.3f} | {r['tpr_at_5']:.3f} |"
        for r in record["robustness"]  # type: ignore[attr-defined]
    ]
    parts.append("\n![Robustness](robustness.png)\n\n## Real images flagged\n")
    parts.append("| source | condition | images | at 1 % | at 5 % | at 10 % |\n|---|---|---:|---:|---:|---:|")
    parts += [
        f"| {r['source']} | {name} | {r['images']} | {r['at_1']:.3f} | {r['at_5']:.3f} | {r['at_10']:.3f} |"
        for name, rows in record["real_flagged"].items()  # type: ignore[attr-defined]
        for r in rows
    ]
    return "\n".join(parts) + "\n"
