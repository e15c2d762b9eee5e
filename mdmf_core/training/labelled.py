"""Labelled images: who is real, who made the others, and which groups stay unseen together."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from mdmf_core.errors import LabelError

MIN_IMAGES = 20  # per class; fewer leave nothing to hold out
CALIBRATE = "calibrate"  # the role that neither training nor a bank sees
MIN_FOLDS = 3  # one to train on, one to choose on, one to report


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image of a labelled set. ``group`` is its generator, or the source of a real image: what is held out as a whole.

    ``pair`` names a set of images of both classes that show the same subjects, whose figure is reported apart.
    """

    url: str
    generated: bool
    group: str
    size_bytes: int = 0
    fold: int | None = None  # given by the manifest; None = dealt by seed
    domain: str = "photo"
    pair: str | None = None


def label_of(path: str, part: str) -> tuple[bool, str] | None:
    """(generated, group) by the folder names of the field's layouts, or None for a file that none of them places.

    Args:
        path: relative to the root of the set.
        part: ``train`` or ``val``: which half of GenImage is meant.

    >>> label_of("progan/car/1_fake/0001.png", "val")
    (True, 'progan/car')
    >>> label_of("Midjourney/imagenet_midjourney/val/nature/a.JPEG", "val")
    (False, 'Midjourney')
    >>> label_of("real/flickr/2019/a.jpg", "val")
    (False, 'flickr')
    >>> label_of("matched/faces/generated/stylegan/7.png", "val")
    (True, 'stylegan')
    """
    folders = PurePosixPath(path).parts[:-1]
    for at, name in enumerate(folders):
        if name in ("0_real", "1_fake"):  # ForenSynths
            return name == "1_fake", "/".join(folders[:at]) or "."
        if name in ("nature", "ai") and at > 0 and folders[at - 1] in ("train", "val"):  # GenImage
            return (name == "ai", folders[0] if at > 1 else ".") if folders[at - 1] == part else None
    for at, name in enumerate(folders):
        if name in ("real", "generated", "fake"):
            return name != "real", folders[at + 1] if at + 1 < len(folders) else "."
    return None


def pair_of(path: str) -> str | None:
    """The content-matched pair of a file, from the folder below ``matched``; None elsewhere.

    >>> pair_of("matched/faces/generated/stylegan/7.png")
    'faces'
    """
    folders = PurePosixPath(path).parts[:-1]
    at = folders.index("matched") + 1 if "matched" in folders else len(folders)
    return folders[at] if at < len(folders) else None


def check_labelled(
    generated: Sequence[bool], groups: Sequence[str], sha256s: Sequence[str], formats: Sequence[str], split_formats: bool
) -> None:
    """Refuses sets of usable images from which only a shortcut could be learned.

    Args:
        split_formats: accept that no file format occurs in both classes.

    Raises:
        LabelError: too few images of a class, one image in two groups, or formats that tell the classes apart.
    """
    require_classes(generated)
    places: dict[str, set[tuple[bool, str]]] = defaultdict(set)
    for made, group, digest in zip(generated, groups, sha256s, strict=True):
        places[digest].add((made, group))
    shared = {digest: sorted(found) for digest, found in places.items() if len(found) > 1}
    if shared:
        digest, found = min(shared.items())
        names = " and ".join(f"{'generated' if made else 'real'}/{group}" for made, group in found)
        raise LabelError(
            f"{len(shared)} images are in more than one group, so no split by group is clean; first: {names} both hold {digest}"
        )
    seen = {label: {f for made, f in zip(generated, formats, strict=True) if made is label} for label in (False, True)}
    if not seen[False] & seen[True] and not split_formats:
        raise LabelError(
            f"every real image is {', '.join(sorted(seen[False]))} and every generated one {', '.join(sorted(seen[True]))}: "
            "the file format tells the classes apart. Add images of both kinds to both classes, or say accept_split_formats "
            "and rely on the re-encoding that both classes pass"
        )


def require_classes(generated: Sequence[bool]) -> None:
    """Raises LabelError when a class has fewer than 20 images."""
    counts = Counter(generated)
    for label, name in ((False, "real"), (True, "generated")):
        if counts[label] < MIN_IMAGES:
            raise LabelError(f"{counts[label]} usable {name} images; at least {MIN_IMAGES} of each class are needed")


def deal_folds(images: Sequence[LabelledImage], folds: int, seed: int) -> Mapping[tuple[bool, str], int]:
    """Fold of every (generated, group): whole generators and whole real sources stay together.

    Folds that the manifest gives are kept; the other groups are dealt, largest first, in seeded order.

    Raises:
        LabelError: fewer groups of a class than folds, fewer than 3 folds, or a group that is in two folds.
    """
    if folds < MIN_FOLDS:
        raise LabelError(f"at least {MIN_FOLDS} folds are needed (to train, to choose and to report), got {folds}")
    require_classes([image.generated for image in images])
    sizes = Counter((image.generated, image.group) for image in images)
    given: dict[tuple[bool, str], set[int]] = defaultdict(set)
    for image in images:
        if image.fold is not None:
            given[image.generated, image.group].add(image.fold % folds)
    split = sorted(group for group, found in given.items() if len(found) > 1)
    if split:
        raise LabelError(f"group {split[0][1]!r} is in folds {sorted(given[split[0]])}; a group must stay in one")
    random = np.random.default_rng(seed)
    dealt = {group: next(iter(found)) for group, found in given.items()}
    for generated, name in ((False, "real sources"), (True, "generators")):
        groups = sorted(group for group in sizes if group[0] is generated)
        if len(groups) < folds:
            raise LabelError(
                f"{len(groups)} {name} ({', '.join(group for _, group in groups[:5])}) cannot fill {folds} folds; at least "
                f"{folds} are needed. Groups are the folders below real/ and generated/, or the manifest's column group"
            )
        waiting = [group for group in groups if group not in dealt]
        order = {group: random.random() for group in waiting}
        for group in sorted(waiting, key=lambda g: (-sizes[g], order[g])):
            load = Counter(dict.fromkeys(range(folds), 0))
            load.update({f: sizes[g] for g, f in dealt.items() if g[0] is generated})
            lightest = min(load.values())
            dealt[group] = int(random.choice([fold for fold in range(folds) if load[fold] == lightest]))
        empty = [fold for fold in range(folds) if not any(dealt[group] == fold for group in groups)]
        if empty:
            raise LabelError(f"fold {empty[0]} holds none of the {name}; every fold needs one")
    return dealt


def deal_roles(images: Sequence[tuple[bool, str, str]]) -> list[str]:
    """pfs, bank or calibrate for (generated, group, sha256) of every image.

    Of each real source two fifths calibrate and one fills the bank, in the order of their sha256. Signatures are trained on all
    others and on the bank's: a bank of images that training saw costs nothing as long as those of the calibration are unseen.
    Generated images are all for the PFS.
    """
    found = ["pfs"] * len(images)
    sources: dict[str, list[int]] = defaultdict(list)
    for at, (generated, group, _) in enumerate(images):
        if not generated:
            sources[group].append(at)
    for members in sources.values():
        ordered = sorted(members, key=lambda at: images[at][2])
        for rank, at in enumerate(ordered):
            found[at] = (CALIBRATE, CALIBRATE, "bank", "pfs", "pfs")[rank * 5 // len(ordered)]
    return found
