"""Makes the bundled default scorer, its bank and its calibration: `make default-scorer DATA=DIR`.

DIR holds manifest.csv (label, set, file) as ../shared/data does. Whole generators and whole real sources are held out and
never touch training, bank, calibration or the choice of the statistic; the figures in scorer.json are theirs. Both classes
pass the same random resizing and re-encoding, so that neither format nor size tells them apart.
"""

import csv
import io
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch.nn.functional import binary_cross_entropy_with_logits

from mdmf_core.banks import BankMember, build_bank
from mdmf_core.calibration import CARD as CALIBRATION
from mdmf_core.calibration import Calibration, Support
from mdmf_core.crops import CropPlan
from mdmf_core.digests import sha256_hex
from mdmf_core.forensic import CROP, ForensicBackbone
from mdmf_core.kernels import gaussian, median_heuristic
from mdmf_core.metrics import auroc, auroc_interval, tpr_at_fpr
from mdmf_core.mmd import PatchTerms
from mdmf_core.pfs import PatchSignature
from mdmf_core.scorers import CARD, TENSORS
from mdmf_core.scoring import Scorer, Statistic, scorer_digest

SEED, VARIANTS, STEPS, POINTS, TOP_K = 2605, 3, 1500, 1000, 16
HELD_OUT = {
    "stylegan_faces_512", "sd3_faker_portraits", "cyclegan_h2z_256", "sr_realesrgan_x4plus",
    "faces_ciplab", "horses_cyclegan_pair", "wesnoth_art",
}  # fmt: skip
PLAN = CropPlan(CROP, 16)
CANDIDATES = ({"mmd2": 1.0}, {"cross": -1.0}, {"top_k": -1.0}, {"cross": -1.0, "top_k": -1.0})


def reencoded(image: Image.Image, random: np.random.Generator, quality: int | None = None) -> np.ndarray:
    """A random resize by 0.5 to 1.5 (never below a crop) and a JPEG or WebP; with ``quality`` just that JPEG."""
    if quality is None:
        scale = max(random.uniform(0.5, 1.5), 80 / min(image.size))
        image = image.resize((round(image.width * scale), round(image.height * scale)), random.choice([1, 2, 3]))
    buffer = io.BytesIO()
    if quality is None and random.random() < 0.15:
        image.save(buffer, "WEBP", quality=int(random.integers(60, 100)))
    else:
        level = quality or int(random.integers(50, 101))
        image.save(buffer, "JPEG", quality=level, subsampling=2 if quality else int(random.choice([0, 2])))
    return np.asarray(Image.open(buffer).convert("RGB"))


def use_of(row: dict[str, str]) -> str:
    """train, validate, bank, calibrate or test: by set, then by file stem."""
    if row["set"] in HELD_OUT:
        return "test"
    part = int(sha256_hex(Path(row["file"]).stem.encode())[:8], 16) % 100
    if row["label"] == "generated":
        return "train" if part < 75 else "validate"
    return "train" if part < 40 else "bank" if part < 65 else "calibrate"


def train_signature(tokens: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor) -> tuple[PatchSignature, float]:
    """PFS and bandwidth by the cross-entropy of a patch's bank density, each step against a fresh bank of training reals.

    Groups are drawn evenly, so that no large set decides.
    """
    torch.manual_seed(SEED)
    signature = PatchSignature(tokens.shape[1], 128, 32)
    signature.mean.copy_(tokens.mean(0))
    signature.std.copy_(tokens.std(0) + 1e-3)
    with torch.no_grad():
        start = median_heuristic(signature(tokens[:2000]))
    log_sigma = torch.nn.Parameter(torch.tensor(start).log())
    line = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    optimizer = torch.optim.AdamW([*signature.parameters(), log_sigma, line], lr=1e-3, weight_decay=1e-2)
    members = {int(group): torch.nonzero(groups == group)[:, 0] for group in groups.unique()}
    real = [index for index in members.values() if not labels[index[0]]]
    generated = [index for index in members.values() if labels[index[0]]]

    def draw(pools: list[torch.Tensor], count: int) -> torch.Tensor:
        share = -(-count // len(pools))
        return torch.cat([pool[torch.randint(len(pool), (share,))] for pool in pools])

    for step in range(STEPS):
        bank, positive, negative = draw(real, 512), draw(generated, 256), draw(real, 256)
        batch = torch.cat([bank, positive, negative])
        noisy = tokens[batch] + 0.1 * signature.std * torch.randn(len(batch), tokens.shape[1])
        vectors = signature(torch.nn.functional.dropout(noisy - signature.mean, 0.2) + signature.mean)
        density = gaussian(vectors[len(bank) :], vectors[: len(bank)], log_sigma.exp()).mean(1)
        logits = line[0] * -(density + 1e-6).log() + line[1]
        target = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))])
        loss = binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 300 == 0:
            print(f"step {step}: loss {loss.item():.4f}, sigma {log_sigma.exp().item():.3f}", flush=True)
    return signature.eval().requires_grad_(False), float(log_sigma.exp())


def main(data: Path, out: Path) -> None:
    random = np.random.default_rng(SEED)
    backbone = ForensicBackbone().eval()
    tokens, labels, groups = [], [], []
    held: dict[str, list[tuple[dict[str, str], torch.Tensor, tuple[int, int]]]] = defaultdict(list)
    rows = list(csv.DictReader((data / "manifest.csv").open()))
    sets = sorted({row["set"] for row in rows})
    with torch.inference_mode():
        for number, row in enumerate(rows):
            image, use = Image.open(data / row["file"]).convert("RGB"), use_of(row)
            if number % 200 == 0:
                print(f"{number} of {len(rows)} images", flush=True)
            for _ in range(VARIANTS if use == "train" else 1):
                # Held-out and validation images of both classes are re-encoded alike, at JPEG 90.
                pixels = reencoded(image, random, None if use in ("train", "bank", "calibrate") else 90)
                found = backbone(torch.from_numpy(PLAN.cut(pixels))).flatten(0, 1)
                if use == "train":
                    kept = found[torch.from_numpy(random.permutation(len(found))[:24])]
                    tokens.append(kept)
                    labels.append(torch.full((len(kept),), row["label"] == "generated"))
                    groups.append(torch.full((len(kept),), sets.index(row["set"])))
                else:
                    held[use].append((row, found, pixels.shape[:2]))
    signature, sigma = train_signature(torch.cat(tokens), torch.cat(labels), torch.cat(groups))
    publish(out, backbone, signature, sigma, held)


def publish(out: Path, backbone: ForensicBackbone, signature: PatchSignature, sigma: float, held: dict) -> None:  # type: ignore[type-arg]
    """Chooses the statistic on validation images, then writes scorer, bank and calibration with the held-out figures."""
    record = {"kind": "forensic", "version": 1}

    def scorer_with(statistic: Statistic) -> Scorer:
        identity = scorer_digest(record, backbone, PLAN, signature, statistic, sigma)
        return Scorer(
            "default", backbone, record, PLAN, signature, statistic, sigma, torch.device("cpu"), None, identity
        )  # fmt: skip

    def bank_for(scorer: Scorer) -> object:
        vectors = torch.cat([signature(found)[::3] for _, found, _ in held["bank"]])
        members = [BankMember("training data", row["file"], row["sha256"], "photo") for row, _, _ in held["bank"]]
        return build_bank("default", scorer.scorer_id, vectors, members, POINTS, sigma)

    draft = scorer_with(Statistic(CANDIDATES[0], TOP_K))
    bank = bank_for(draft)
    terms: dict[str, list[tuple[dict[str, str], PatchTerms]]] = {
        use: [(row, draft.terms(signature(found), [len(found)], bank)) for row, found, _ in held[use]]  # type: ignore[arg-type]
        for use in ("validate", "calibrate", "test")
    }

    def scores(use: str, statistic: Statistic, only: str | None = None) -> np.ndarray:
        return np.array(
            [float(statistic.score(term)[0]) for row, term in terms[use] if only in (None, row["set"], row["label"])]
        )

    trials = {}
    for candidate in CANDIDATES:
        statistic = Statistic(candidate, TOP_K)
        trials[json.dumps(candidate)] = auroc(scores("validate", statistic), scores("calibrate", statistic))
    chosen = Statistic(json.loads(max(trials, key=lambda name: trials[name])), TOP_K)
    scorer = scorer_with(chosen)
    bank = bank_for(scorer)
    real = scores("test", chosen, "real")
    figures = {}
    for name in [*sorted({row["set"] for row, _ in terms["test"] if row["label"] == "generated"}), "generated"]:
        found = scores("test", chosen, name)
        low, high = auroc_interval(found, real)
        figures["all held-out generators" if name == "generated" else name] = {
            "images": len(found), "real_images": len(real), "auroc": round(auroc(found, real), 3),
            "interval_95": [round(low, 3), round(high, 3)], "tpr_at_5_percent_fpr": round(tpr_at_fpr(found, real, 0.05), 3),
        }  # fmt: skip
    line = np.quantile(scores("calibrate", chosen), 0.95)
    flagged = {
        name: round(float((scores("test", chosen, name) > line).mean()), 3)
        for name in sorted({row["set"] for row, _ in terms["test"] if row["label"] == "real"})
    }
    sides = [shape for _, _, shape in held["calibrate"]]
    calibration = Calibration(
        scorer.scorer_id, bank.bank_id, "photo", tuple(sorted(scores("calibrate", chosen).tolist())),  # type: ignore[attr-defined]
        Support(min(map(min, sides)), max(map(max, sides)), 50, True),
        tuple(sorted(row["sha256"] for row, _, _ in held["calibrate"])),
    )  # fmt: skip
    tensors = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    tensors |= {f"pfs.{name}": value.contiguous() for name, value in signature.state_dict().items()}
    weights = save(tensors)
    card = {
        "name": "default", "scorer_id": scorer.scorer_id, "backbone": record, "crops": {"size": PLAN.size, "most": PLAN.most},
        "statistic": {"terms": dict(chosen.terms), "k": chosen.k}, "sigma": sigma, "files": {TENSORS: sha256_hex(weights)},
        "training": {
            "seed": SEED, "held_out": sorted(HELD_OUT), "validation_auroc": trials, "held_out_figures_jpeg90": figures,
            "held_out_real_flagged_at_5_percent": flagged,
        },
    }  # fmt: skip
    files = {TENSORS: weights, CARD: json.dumps(card, indent=1).encode() + b"\n"}
    files |= {f"bank/{name}": content for name, content in bank.files().items()}  # type: ignore[attr-defined]
    files[f"bank/{CALIBRATION}"] = calibration.file()
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    print(json.dumps(card["training"], indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
