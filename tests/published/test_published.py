"""Published figures: that the data is what its sources say, which results it lies beside, and what is said to differ."""

import re
from collections import defaultdict

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.probes import probe_label
from iceprobe.published import SOURCES, beside, encoders, figures
from iceprobe.published.cells import cells_of, rows_of_differences
from iceprobe.published.matching import data_of, encoder_of
from iceprobe.published.pairs import grouped, marks_used
from iceprobe.published.rows import DATA
from iceprobe.results.schema import Flops, Parameters, Result, Score, StoreReference


def result(probe: str = "ep32", **changes) -> Result:
    fields = dict(
        probe=probe,
        method="knn" if probe.startswith("knn") else "trained",
        backbone="timm:vit_base_patch16_224.mae",
        dataset="imagenet1k?root=/data",
        protocol="heldout",
        classes=1000,
        train_images=1_281_167,
        test_images=50_000,
        dim=768,
        num_tokens=196,
        grid=(14, 14),
        primary="top1",
        metrics={"top1": Score.of([0.75], (0.74, 0.76))},
        training={"optimizer": "adamw", "epochs": 20, "images_per_step": 256},
        selected_on="held-out 10% of train",
        parameters=Parameters(pooling=0, classifier=0, total=0),
        flops=Flops(per_image=0),
        seconds=0,
        seeds=[0],
        store=StoreReference(path=None, identity="x"),
    )
    return Result(**(fields | changes))


PAPER = dict(
    protocol="paper",
    selected_on="the reported split (best epoch)",
    training={"optimizer": "lars", "epochs": 90, "images_per_step": 4096},
    training_images="live, paper augmentation",
)


def of_source(pairs, source):
    return [one for one in pairs if one.figure.source == source]


def said(one):
    return [str(differs) for differs in one.differences]


# --- the data ---------------------------------------------------------------------------------


def test_every_figure_is_of_a_known_encoder_source_and_data_set():
    for one in figures():
        assert one.encoder in encoders()
        assert one.source in SOURCES
        assert one.data in DATA
        assert 0 < one.top1 < 1
        assert one.image_size % 2 == 0
    assert {one.encoder for one in figures()} == set(encoders())
    assert len({(f.source, f.encoder, f.data, f.probe, f.reads, f.note) for f in figures()}) == len(
        figures()
    )


def test_the_benchmark_is_whole_and_has_the_gains_that_the_specification_counted():
    """37 rows of k-NN, linear and EP; 14 gains of EP over linear are below half a point."""
    rows = defaultdict(dict)
    for one in figures():
        if one.source == "ep-benchmark":
            rows[one.encoder][re.match("knn|linear|ep", one.probe).group()] = one.top1
    assert len(rows) == 37
    assert all(set(row) == {"knn", "linear", "ep"} for row in rows.values())
    gains = sorted(row["ep"] - row["linear"] for row in rows.values())
    assert sum(gain < 0.005 for gain in gains) == 14
    assert sum(gain < 0 for gain in gains) == 3
    assert gains[-1] == pytest.approx(0.6963 - 0.4085)  # MaskFeat ViT-L/16


def test_probes_of_figures_are_iceprobes_own():
    for probe in {one.probe for one in figures()} - {"ep", "aim"}:  # numbers that aren't stated
        assert probe_label(probe) == probe


def test_specs_name_weights_that_their_libraries_have():
    import open_clip
    import timm

    pretrained = set(timm.list_pretrained())
    clips = set(open_clip.list_pretrained())
    specs = [spec for one in encoders().values() for spec in one.specs]
    assert len(specs) == len(set(map(str, specs)))
    for spec in specs:
        if spec.kind == "timm":
            assert spec.name in pretrained
        if spec.kind == "open_clip":
            assert (spec.name, spec.options["pretrained"]) in clips


def test_patches_and_sizes_agree_with_timms_models():
    """Where timm has the encoder, its patch divides the image as the figure's grid says."""
    import timm

    for encoder in encoders().values():
        named = [spec.name for spec in encoder.specs if spec.kind == "timm"]
        if not named or encoder.name.startswith("Hiera"):
            continue
        found = timm.models.get_pretrained_cfg(named[0])
        assert f"patch{encoder.patch}_" in named[0]
        sizes = {one.image_size for one in figures() if one.encoder == encoder.name}
        if not encoder.name.startswith("DINOv"):  # evaluated at another size than timm's default
            assert sizes == {found.input_size[-1]}, encoder.name


# --- which encoder and data set a result is of ------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("timm:vit_base_patch16_224.mae", "MAE ViT-B/16"),
        ("timm:vit_base_patch16_224.mae?layer=-2&norm=true", "MAE ViT-B/16"),
        ("transformers:facebook/dinov2-large", "DINOv2 ViT-L/14"),
        ("torch_hub:facebookresearch/dinov2?entry=dinov2_vitl14_reg&trust=true", "DINOv2 ViT-L/14 with registers"),
        ("torch_hub:facebookresearch/capi:main?entry=capi_vitl14_lvd", "CAPI ViT-L/14 LVD-142M"),
        ("open_clip:ViT-L-14?pretrained=openai", "CLIP ViT-L/14"),
        ("open_clip:ViT-L-14?pretrained=laion2b_s32b_b82k", None),
        ("open_clip:ViT-L-14", None),
        ("torch_hub:facebookresearch/dinov2?entry=dinov2_vits14_lc", None),
        ("timm:vit_base_patch16_224.mae?checkpoint=mine.pth", None),
        ("timm:vit_base_patch16_224.mae?pretrained=false", None),
        ("bundled:mae-tiny", None),
    ],
)  # fmt: skip
def test_an_encoder_is_known_by_the_weights_that_its_spec_loads(spec, name):
    found = encoder_of(spec)
    assert (found and found.name) == name


def test_a_data_set_is_known_by_its_name_or_by_a_thousand_wordnet_ids():
    assert data_of(result()) == ("imagenet1k", "")
    ids = [f"n{at:08d}" for at in range(1000)]
    name, assumed = data_of(result(dataset="folder:/data/in", class_names=ids))
    assert name == "imagenet1k"
    assert "taken for ImageNet-1k" in assumed
    assert data_of(result(dataset="folder:/data/in", class_names=[*ids[:-1], "cat"])) == ("", "")
    assert data_of(result(dataset="folder:/imagenet1k")) == ("", "")


def test_adapted_results_of_other_sets_and_other_tasks_have_nothing_beside_them():
    assert beside([result()])
    assert not beside([result(adaptation="lora?rank=8")])
    assert not beside([result(dataset="bundled:fashion-clutter")])
    assert not beside([result(backbone="bundled:mae-tiny")])
    tags = dict(task="multilabel", primary="map", metrics={"map": Score.of([0.5])})
    assert not beside([result(**tags)])


def test_what_a_spec_does_not_tell_can_be_named_and_is_said():
    own = result(
        backbone="timm:vit_small_patch16_224.mae?checkpoint=mine.pth", dataset="folder:/in1k"
    )
    assert not beside([own])
    pairs = beside([own], encoder="mae vit-s/16", data="imagenet1k")
    assert {one.figure.encoder for one in pairs} == {"MAE ViT-S/16"}
    assert pairs[0].assumed == [
        "timm:vit_small_patch16_224.mae?checkpoint=mine.pth is taken for MAE ViT-S/16: you named it; folder:/in1k is "
        "taken for imagenet1k: you named it"
    ]
    other = beside([result()], encoder="MAE ViT-L/16")
    assert "which is MAE ViT-B/16, is taken for MAE ViT-L/16" in other[0].assumed[0]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (dict(encoder="MAE ViT-B"), "Did you mean MAE ViT-B/16"),
        (dict(data="imagenet"), "Did you mean imagenet1k"),
        (dict(data="kinetics400"), "has 1,000 outputs and kinetics400 has 400 classes"),
    ],
)
def test_a_wrong_name_is_refused(names, words):
    with pytest.raises(IceprobeError, match=re.escape(words)):
        beside([result()], **names)


# --- which figures, and what differs ------------------------------------------------------------


def test_the_very_probe_is_taken_where_a_source_has_it():
    (benchmark,) = of_source(beside([result("ep32")]), "ep-benchmark")
    assert (benchmark.figure.probe, benchmark.figure.top1) == ("ep32", pytest.approx(0.7546))
    assert benchmark.difference == pytest.approx(0.75 - 0.7546)
    paper = of_source(beside([result("ep12")]), "ep-paper")
    assert [(one.figure.probe, one.figure.note) for one in paper] == [
        ("ep", "best of several M"),
        ("ep12", "ablation"),
    ]
    (sliced,) = beside([result("ep12?query=sliced")])
    assert sliced.figure.top1 == pytest.approx(0.729)
    assert not beside([result("ep12?out_dim=384")])
    assert not beside([result("simpool")])


def test_ep_with_another_number_of_queries_lies_beside_the_benchmarks_with_a_word():
    (one,) = of_source(beside([result("ep8")]), "ep-benchmark")
    assert one.figure.probe == "ep32"
    assert "probe: ep8 here, ep32 published" in said(one)


def test_a_reading_that_is_published_is_preferred_and_another_is_said():
    pairs = of_source(beside([result("linear?input=mean")]), "ep-paper")
    assert sorted(one.figure.top1 for one in pairs) == pytest.approx([0.667, 0.677])
    (one,) = of_source(beside([result("linear?input=mean")]), "ep-benchmark")
    assert "reads: mean here, class published" in said(one)
    clip = dict(backbone="open_clip:ViT-B-16?pretrained=openai", grid=(14, 14))
    (one,) = of_source(beside([result("linear", **clip)]), "ep-benchmark")
    assert "reads: class here, class_projected published" in said(one)
    (one,) = of_source(beside([result("linear?input=class_projected", **clip)]), "ep-benchmark")
    assert not any(line.startswith("reads") for line in said(one))


def test_a_run_by_the_publications_protocol_differs_in_nothing_that_is_recorded():
    (one,) = of_source(beside([result("ep32", **PAPER)]), "ep-benchmark")
    assert one.differences == []
    assert (one.mark, one.published_mark) == ("‡", "‡")
    assert one.shown_difference == "−0.5‡"


def test_selected_and_held_out_figures_never_stand_without_a_mark():
    for one in beside([result(), result("knn"), result("linear")]):
        assert one.mark == ""
        assert one.published_mark == "‡"
        assert one.shown_difference.endswith("‡")
        assert any(differs.what == "selected on" for differs in one.differences)
    assert [*marks_used(beside([result()]))] == ["‡"]
    capi = "torch_hub:facebookresearch/capi?entry=capi_vitl14_lvd"
    (one,) = beside([result("capi", backbone=capi, grid=(16, 16))])
    assert (one.published_mark, one.shown_difference) == ("", "−8.8")
    (aim,) = beside(
        [result("aim16", backbone="timm:aimv2_large_patch14_224.apple_pt", grid=(16, 16))]
    )
    assert aim.shown_difference == "−11.6?"


def test_what_the_protocols_do_otherwise_is_listed():
    changes = dict(
        backbone="timm:vit_base_patch16_224.mae?norm=true&layer=-2",
        train_images=9000,
        test_images=5000,
        grid=(16, 16),
        seeds=[0, 1, 2],
        metrics={"top1": Score.of([0.7, 0.7, 0.7])},
    )
    (one,) = of_source(beside([result("ep32", **changes)]), "ep-benchmark")
    assert said(one) == [
        "selected on: held-out 10% of train here, the reported split (best epoch) published",
        "optimiser: adamw here, lars published",
        "epochs: 20 here, 90 published",
        "images a step: 256 here, 4096 published",
        "training images: evaluation view, without augmentation here, random crops and flips, new in each epoch "
        "published",
        "runs: mean of 3 here, one published",
        "images to learn from: 9,000 here, 1,281,167 published",
        "images reported: 5,000 here, 50,000 published",
        "grid of patches: 16×16 here, 14×14 at 224 pixels published",
        "layer: -2 here, the last published",
        "tokens: with the final norm here, without the final norm published",
    ]
    (few,) = of_source(beside([result("ep32", shots=5, train_images=5000)]), "ep-benchmark")
    assert "images to learn from: 5 a class here, all published" in said(few)


def test_dino_is_published_without_the_norm_that_is_its_default_here():
    dino = "timm:vit_base_patch16_224.dino"
    (one,) = of_source(beside([result("ep32", backbone=dino)]), "ep-benchmark")
    assert "tokens: with the final norm here, without the final norm published" in said(one)
    assert "reads: patches here, class+patches published" in said(one)
    (one,) = of_source(
        beside([result("ep32?input=class+patches", backbone=dino + "?norm=false")]), "ep-benchmark"
    )
    assert not any(line.startswith(("tokens", "reads")) for line in said(one))


def test_the_benchmarks_neighbours_are_searched_in_shares_of_train():
    knn = result("knn", selected={"k": 10, "temperature": 0.1})
    lines = said(of_source(beside([knn]), "ep-benchmark")[0])
    assert "neighbours: k=10, T=0.1 here, k=20, T=0.07 published" in lines
    assert any(line.startswith("searched in: all of train here") for line in lines)
    assert not any(
        line.startswith("searched") for line in said(of_source(beside([knn]), "ep-paper")[0])
    )


def test_what_differs_is_grouped_by_the_probes_that_it_differs_for():
    pairs = of_source(beside([result("ep8"), result("linear")]), "ep-benchmark")
    found = {differs.what: of for differs, of in grouped(pairs).items()}
    assert found["optimiser"] == ["ep8", "linear"]
    assert found["probe"] == ["ep8"]


def test_remarks_are_of_the_encoders_that_they_are_true_of():
    source = SOURCES["ep-benchmark"]
    assert len(source.remarks_on("MAE ViT-B/16")) == 1
    assert len(source.remarks_on("DiT-XL/2")) == 3
    assert len(source.remarks_on("EVA02-CLIP E-14")) == 2
    assert len(source.remarks_on("EVA02 ViT-L/14")) == 2


def test_the_cells_of_the_tables():
    (one,) = of_source(beside([result()]), "ep-benchmark")
    assert cells_of(one) == (
        "75.0", "74.0 to 76.0", "75.5‡", "−0.5‡", "ep32 of patches", "ep-benchmark",
    )  # fmt: skip
    (alone,) = of_source(
        beside([result(metrics={"top1": Score.of([0.75])}, **PAPER)]), "ep-benchmark"
    )
    assert cells_of(alone)[:2] == ("75.0‡", "")
    assert rows_of_differences([alone]) == [("nothing that is recorded", "–", "–", "all")]
    pairs = of_source(beside([result("ep8"), result("linear")]), "ep-benchmark")
    rows = {row[0]: row[1:] for row in rows_of_differences(pairs, str.upper)}
    assert rows["optimiser"] == ("adamw", "lars", "all")
    assert rows["probe"] == ("ep8", "ep32", "EP8")
