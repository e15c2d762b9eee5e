"""The page that `mdmf evaluate` writes: figures by generator, controls and plots."""

from collections.abc import Mapping, Sequence

from mdmf_core.training.evaluation import Control, Figure, markdown


def evaluation_page(
    record: Mapping[str, object],
    tables: Mapping[str, Sequence[Figure]],
    controls: Sequence[Control],
    scorer: str,
    source: str,
) -> str:
    parts = [f"# Evaluation of `{scorer}` on `{source}`\n", "| | |\n|---|---|"]
    parts += [f"| {name} | {record[name]} |" for name in ("scorer_id", "bank_id", "images", "code_version")]
    parts.append("\n## Controls\n")
    parts += [f"* {'holds' if c.holds else '**BROKEN**'}: {c.name}: {c.detail}" for c in controls]
    parts.append(
        "\nBoth classes are re-encoded at JPEG 90 unless a title says otherwise. AP depends on the prevalence beside it."
    )
    for name, figures in tables.items():
        parts.append(f"\n## {name}\n\n{markdown(figures)}")
    parts.append("![AUROC per generator](generators.png)\n\n## Robustness, all groups\n")
    parts.append("| condition | AUROC | TPR at 5 % |\n|---|---:|---:|")
    parts += [f"| {r['condition']} | {r['auroc']:.3f} | {r['tpr_at_5']:.3f} |" for r in record["robustness"]]  # type: ignore[attr-defined]
    parts.append("\n![Robustness](robustness.png)\n\n## Real images flagged, as stored\n")
    parts.append("| source | images | at 1 % | at 5 % | at 10 % |\n|---|---:|---:|---:|---:|")
    parts += [
        f"| {r['source']} | {r['images']} | {r['at_1']:.3f} | {r['at_5']:.3f} | {r['at_10']:.3f} |"
        for r in record["real_flagged"]  # type: ignore[attr-defined]
    ]
    return "\n".join(parts) + "\n"
