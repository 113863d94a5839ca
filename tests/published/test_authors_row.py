"""A run as a row of the authors' results.csv, held against what their own script demands of a row."""

import re

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.published.authors_row import COLUMNS, row_of
from iceprobe.results.schema import Score
from tests.published.test_published import PAPER, result

AUTHORS_HEADER = (
    "family,method,arch,pretrain,eval,image_size,lp,lp_gap,ep,ep_queries,ep_variant,model,loader,pretrain_tag,finetune,"
    "lp_variant,lp_log,ep_log,notes,verified,amp,waiting,gap_reason,knn,knn_k,knn_T,knn_log,extra_flags,ep_head"
)


def made(probe: str, top1: float, **changes):
    return result(probe, metrics={"top1": Score.of([top1])}, **(PAPER | changes))


def run(**changes):
    return [
        made("knn", 0.3557, selected={"k": 20, "temperature": 0.07}, **changes),
        made("linear", 0.67784, **changes),
        made("linear?input=mean", 0.6677, **changes),
        made("ep8", 0.7412, **changes),
        made("ep32", 0.75461, **changes),
    ]


def refuses(row: dict[str, str]) -> str | None:
    """The rules of the authors' gen_leaderboard.py on a row, written from its documentation of the columns."""
    for key in ("lp", "ep", "image_size", "knn"):
        if not re.fullmatch(r"\d+(\.\d+)?", row[key] or "0"):
            return key
    if row["family"] not in ("MIM", "JEA", "Hybrid", "VLM", "GEN") or row["eval"] != "IN-1K":
        return "family or eval"
    if row["lp_gap"] not in ("yes", "no") or row["ep_variant"] not in ("ep", "ep_all"):
        return "lp_gap or ep_variant"
    if row["knn"] and not row["knn_k"]:
        return "knn_k"
    if (row["lp_gap"] == "yes") != (row["gap_reason"] in ("no_cls", "attn_pool")):
        return "gap_reason"
    return None


def test_a_run_of_a_published_encoder_is_the_row_that_the_authors_have():
    row = row_of(run(paradigm="masked image modelling"))
    assert COLUMNS == tuple(AUTHORS_HEADER.split(",")) == tuple(row)
    assert refuses(row) is None
    theirs = dict(
        family="MIM", method="MAE", arch="ViT-B/16", pretrain="IN-1K", eval="IN-1K", image_size="224", lp="67.78",
        lp_gap="no", ep="75.46", ep_queries="32", ep_variant="ep", lp_variant="cls", knn="35.57", knn_k="20",
        knn_T="0.07", gap_reason="",
    )  # fmt: skip
    assert {key: row[key] for key in theirs} == theirs
    assert row["verified"] == ""  # theirs to say
    assert (row["model"], row["loader"]) == ("vit_base_patch16_224.mae", "timm")


def test_an_encoder_without_a_class_token_says_why_its_linear_probe_reads_the_mean():
    siglip = dict(
        backbone="open_clip:ViT-L-16-SigLIP-256?pretrained=webli",
        grid=(16, 16),
        paradigm="vision-language",
    )
    row = row_of([made("linear", 0.84, **siglip), made("ep32", 0.86, **siglip)])
    assert refuses(row) is None
    assert (row["lp_gap"], row["lp_variant"], row["gap_reason"], row["knn"]) == (
        "yes",
        "pos",
        "attn_pool",
        "",
    )
    assert (row["loader"], row["pretrain_tag"], row["image_size"]) == ("openclip", "webli", "256")
    with pytest.raises(IceprobeError, match=r"run again with --probe linear\?input=mean"):
        row_of([made("linear?input=class", 0.84, **siglip), made("ep32", 0.86, **siglip)])


def test_an_encoder_of_ones_own_is_described_by_its_maker():
    own = dict(backbone="python:mine:model", paradigm="unknown")
    results = [made("linear?input=mean", 0.8, **own), made("ep32?input=class+patches", 0.81, **own)]
    given = dict(family="Hybrid", method="Mine", arch="ViT-L/14", pretrain="LVD", image_size="224")
    with pytest.raises(IceprobeError, match="say why with gap_reason"):
        row_of(results, given)
    row = row_of(results, given | {"gap_reason": "no_cls"})
    assert refuses(row) is None
    assert (row["method"], row["ep_variant"], row["loader"]) == (
        "Mine",
        "ep_all",
        "unsupported:python",
    )
    with pytest.raises(
        IceprobeError, match=r"family, method, arch, pretrain, image_size: say ep\?family=…"
    ):
        row_of(results, {"gap_reason": "no_cls"})
    with pytest.raises(IceprobeError, match="unknown family 'masked'"):
        row_of(results, given | {"family": "masked"})
    with pytest.raises(IceprobeError, match="unknown field of a row 'methd'"):
        row_of(results, {"methd": "Mine"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            dict(protocol="heldout", selected_on="held-out 10% of train"),
            "run again with --protocol paper",
        ),
        (
            dict(dataset="bundled:fashion-clutter"),
            "every row of the authors' table is of ImageNet-1k",
        ),
        (dict(train_images=2000), "run again without --limit"),
    ],
)
def test_a_run_that_the_table_has_no_place_for_gets_no_row(changes, words):
    with pytest.raises(IceprobeError, match=re.escape(words)):
        row_of(run(**changes))


def test_a_run_without_ep_or_of_several_backbones_gets_no_row():
    with pytest.raises(IceprobeError, match="has no EP"):
        row_of([made("linear", 0.6)])
    with pytest.raises(IceprobeError, match="has no linear probe"):
        row_of([made("ep32", 0.6)])
    with pytest.raises(IceprobeError, match="has 2: name a run of one"):
        row_of([*run(), made("ep32", 0.6, backbone="timm:vit_large_patch16_224.mae")])
    with pytest.raises(IceprobeError, match="has 0"):
        row_of([])


def test_a_run_that_was_trained_otherwise_gets_no_row():
    short = {"optimizer": "lars", "epochs": 5, "images_per_step": 4096}
    with pytest.raises(IceprobeError, match="has epochs 5, and every row of the authors' table 90"):
        row_of(run(training=short))


def test_what_a_linear_probe_read_of_an_unknown_encoder_is_asked():
    own = dict(backbone="python:mine:model", paradigm="hybrid")
    given = dict(method="Mine", arch="ViT-L/14", pretrain="LVD", image_size="224")
    with pytest.raises(IceprobeError, match="doesn't record which: run again with --probe linear"):
        row_of([made("linear", 0.8, **own), made("ep32", 0.81, **own)], given)
    told = [
        made("linear?input=class", 0.8, **own),
        made("ep32", 0.81, **own),
        made("knn", 0.7, **own),
    ]
    row = row_of(told, given)
    assert (row["lp_variant"], row["knn"]) == ("cls", "")  # what k-NN read isn't known
    with pytest.raises(IceprobeError, match="has no EP"):
        row_of([told[0], made("ep32?input=prefix+patches", 0.81, **own)], given)


def test_what_was_made_otherwise_stands_in_the_notes():
    cached = dict(
        training_images="evaluation view, without augmentation", paradigm="masked image modelling"
    )
    row = row_of(run(**cached))
    assert "training images: evaluation view, without augmentation here" in row["notes"]
    assert "training images" not in row_of(run(paradigm="masked image modelling"))["notes"]
