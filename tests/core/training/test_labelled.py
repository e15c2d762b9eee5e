"""Layouts of the field, folds by whole group, and sets that are refused."""

import pytest

from mdmf_core.errors import LabelError
from mdmf_core.training.labelled import LabelledImage, check_labelled, deal_folds, deal_roles, label_of


def images(**groups: int) -> list[LabelledImage]:
    """``real_a=3`` makes three images of the real source a."""
    found = []
    for name, count in groups.items():
        label, _, group = name.partition("_")
        found += [LabelledImage(f"{name}/{number}.jpg", label == "generated", group) for number in range(count)]
    return found


def check(found: list[LabelledImage], digests: list[str], formats: list[str], split_formats: bool = False) -> None:
    check_labelled([i.generated for i in found], [i.group for i in found], digests, formats, split_formats)


@pytest.mark.parametrize(
    ("path", "part", "label"),
    [
        ("biggan/0_real/a.png", "val", (False, "biggan")),
        ("progan/cat/1_fake/a.png", "val", (True, "progan/cat")),
        ("ADM/val/ai/a.PNG", "val", (True, "ADM")),
        ("ADM/imagenet_ai_0508_adm/train/nature/a.JPEG", "train", (False, "ADM")),
        ("ADM/train/ai/a.PNG", "val", None),
        ("generated/sd3/x/a.webp", "val", (True, "sd3")),
        ("fake/sd3/a.webp", "val", (True, "sd3")),
        ("readme/a.png", "val", None),
        ("0_real/a.png", "val", (False, ".")),
    ],
)
def test_layouts(path, part, label):
    assert label_of(path, part) == label


def test_a_group_stays_in_one_fold_and_every_fold_holds_both_classes():
    found = images(real_a=30, real_b=20, real_c=10, real_d=5, generated_x=25, generated_y=9, generated_z=7)
    dealt = deal_folds(found, 3, seed=0)
    assert set(dealt) == {(i.generated, i.group) for i in found}
    for fold in range(3):
        assert {made for (made, _), f in dealt.items() if f == fold} == {False, True}
    assert deal_folds(found, 3, seed=0) == dealt
    assert any(deal_folds(found, 3, seed=seed) != dealt for seed in range(1, 20))


def test_folds_of_the_manifest_are_kept():
    found = [
        LabelledImage(f"{group}/{n}", group.startswith("g"), group, fold=fold)
        for group, fold in (("a", 0), ("b", 1), ("c", 2), ("ga", 2), ("gb", 1), ("gc", 0))
        for n in range(10)
    ]
    dealt = deal_folds(found, 3, seed=5)
    assert dealt[False, "a"] == 0
    assert dealt[True, "ga"] == 2


@pytest.mark.parametrize(
    ("found", "folds", "message"),
    [
        (images(real_a=30, generated_x=30), 3, r"1 real sources \(a\) cannot fill 3 folds; at least 3"),
        (images(real_a=9, real_b=9, real_c=9, generated_x=40), 3, "1 generators"),
        (images(real_a=30, real_b=30, real_c=30, generated_x=19), 3, "19 usable generated images; at least 20"),
        (images(real_a=30, generated_x=30), 2, "at least 3 folds"),
    ],
)
def test_sets_that_cannot_be_split_are_refused(found, folds, message):
    with pytest.raises(LabelError, match=message):
        deal_folds(found, folds, seed=0)


def test_a_group_in_two_folds_is_refused():
    found = [LabelledImage(str(n), n % 2 == 0, "a" if n % 2 else "g", fold=n % 3) for n in range(60)]
    with pytest.raises(LabelError, match="in folds"):
        deal_folds(found, 3, seed=0)


def test_one_image_in_two_groups_is_refused():
    found = images(real_a=20, real_b=20, generated_x=20)
    digests = [str(n) for n in range(59)] + ["0"]
    with pytest.raises(LabelError, match="real/a and generated/x both hold 0"):
        check(found, digests, ["JPEG"] * 60)


def test_formats_that_tell_the_classes_apart_are_refused_unless_accepted():
    found = images(real_a=20, generated_x=20)
    digests, formats = [str(n) for n in range(40)], ["JPEG"] * 20 + ["PNG"] * 20
    with pytest.raises(LabelError, match="every real image is JPEG and every generated one PNG"):
        check(found, digests, formats)
    check(found, digests, formats, split_formats=True)
    check(found, digests, ["JPEG"] * 21 + ["PNG"] * 19)


def test_roles_are_exact_shares_of_every_real_source_and_follow_the_bytes():
    found = [(False, group, f"{n * 7919 % 100:02d}{group}") for group in "ab" for n in range(20)] + [(True, "g", "x")]
    roles = deal_roles(found)
    for group in "ab":
        own = [role for role, (made, name, _) in zip(roles, found, strict=True) if name == group and not made]
        assert sorted(own) == ["bank"] * 4 + ["calibrate"] * 8 + ["pfs"] * 8
    assert roles[-1] == "pfs"
    again = dict(zip([i[2] for i in found[::-1]], deal_roles(found[::-1]), strict=True))
    assert [again[digest] for *_, digest in found] == roles
