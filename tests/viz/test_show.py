"""What `samix show` paints and says, and what it refuses."""

import math
import re
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from runs import fit, small_recipe

from samix.batch import Mixed, MixedBatch, pair_batch
from samix.cli.main import main
from samix.hub.checkpoints import load_method
from samix.mixups import MIXUPS
from samix.recipes.build import build_mixup
from samix.viz.figures import figure
from samix.viz.mixes import mask_statistics, mixup_at, title_of
from samix.viz.pictures import mix_grid, plot_curves, source_grid
from samix.viz.show import Show, held_out, pairs_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(small_recipe("samix"), tmp_path_factory.mktemp("runs"), "samix")


@pytest.fixture
def photos(tmp_path):
    """Five pictures of other sizes and modes, none of them square."""
    kinds = [("RGB", (40, 20)), ("L", (17, 31)), ("RGBA", (64, 9)), ("P", (9, 64)), ("RGB", (300, 200))]
    for number, (mode, (width, height)) in enumerate(kinds):
        grey = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(grey).convert(mode).save(tmp_path / f"{number}.png")
    return sorted(tmp_path.glob("*.png"))


def show(source, files, out, size=0, lams=(0.3, 0.7), seed=0):
    return Show(str(source), tuple(files), out, size, lams, seed).write()


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def test_a_checkpoint_is_painted_on_its_data_and_on_files_of_any_shape(run, photos, tmp_path):
    for files, size in (([], 0), (photos, 0), (photos[:3], 24)):
        told = show(run / "best.pt", files, tmp_path / "out.png", size=size)
        assert math.isfinite(float(told.split()[-1]))
        assert picture(tmp_path / "out.png").std() > 5


def test_without_images_digits_are_painted(tmp_path):
    told = show("cutmix", [], tmp_path / "out.png", lams=(0.1, 0.5, 0.9))
    assert float(told.split()[-1]) > 0.9  # a box's area follows lam
    assert picture(tmp_path / "out.png").std() > 5


def test_the_seed_decides_where_a_box_is(photos, tmp_path):
    grids = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        show("cutmix", photos[:2], tmp_path / f"{name}.png", size=16, lams=(0.5,), seed=seed)
        grids.append(picture(tmp_path / f"{name}.png"))
    assert np.array_equal(grids[0], grids[1])
    assert not np.array_equal(grids[0], grids[2])


def test_painting_leaves_the_checkpoint_s_method_as_it_was(run):
    method, recipe, _ = load_method(run / "best.pt")
    before = {name: value.clone() for name, value in method.state_dict().items()}
    images, labels, index, _, _ = held_out(recipe, 0, "data")
    first, second = (method.preview(images, labels, 0.4, index) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


@pytest.mark.parametrize(
    ("source", "count", "lams", "message"),
    [
        ("cutmix", 1, (0.5,), "samix show needs at least two images to mix, got one"),
        ("cutmix", 2, (), "lams must be one or more numbers"),
        ("cutmix", 2, (0.5, 1.5), r"lams must be in \[0, 1\], got 1.5"),
        ("cutmix", 2, (float("nan"),), r"lams must be in \[0, 1\]"),
        ("cutmixx", 2, (0.5,), "'cutmixx' is neither a run nor a mixup; the mixups are vanilla, mixup, cutmix"),
        ("samix", 2, (0.5,), "samix must be trained before it can be shown: give a checkpoint"),
        ("0.png", 2, (0.5,), "damaged or not a samix checkpoint"),
    ],
)
def test_what_cannot_be_painted_is_refused(source, count, lams, message, photos, tmp_path):
    source = tmp_path / source if source.endswith(".png") else source
    with pytest.raises(ValueError, match=message):
        show(source, photos[:count], tmp_path / "out.png", lams=lams)
    assert not (tmp_path / "out.png").exists()


def test_sizes_that_make_no_image_are_refused(photos, tmp_path):
    for size in (-3, 1):  # 0 takes the checkpoint's
        with pytest.raises(ValueError, match="size must be"):
            show("cutmix", photos[:2], tmp_path / "out.png", size=size)


def test_a_file_that_is_no_image_is_named(photos, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(ValueError, match=r"notes.png"):
        show("cutmix", [photos[0], tmp_path / "notes.png"], tmp_path / "out.png")
    with pytest.raises(OSError, match=r"gone.png"):
        show("cutmix", [photos[0], tmp_path / "gone.png"], tmp_path / "out.png")


def batch_with(mask, lam):
    count = len(mask)
    lams = torch.full((count,), lam)
    return pair_batch(
        Mixed(torch.zeros(count, 3, 4, 4), lams, mask), torch.zeros(count).long(), torch.arange(count).roll(1)
    )


def test_mask_statistics_by_hand():
    ramp = torch.linspace(0, 1, 16).view(1, 1, 4, 4).expand(3, 1, 4, 4)
    batches = [batch_with(ramp * lam, lam) for lam in (0.2, 0.6, 1.0)]
    found = mask_statistics(batches)
    assert found["std"] == pytest.approx(float(ramp[0].std()) * 0.6, rel=1e-5)
    assert found["correlation"] == pytest.approx(1.0)
    assert mask_statistics([batch_with(ramp * (1 - lam), lam) for lam in (0.2, 0.6)])["correlation"] == pytest.approx(
        -1.0
    )


def test_mask_statistics_of_one_pair_or_one_lam_have_no_correlation():
    ramp = torch.linspace(0, 1, 16).view(1, 1, 4, 4)
    assert mask_statistics([batch_with(ramp, 0.5)])["correlation"] == 0.0
    varied = torch.cat([ramp, ramp / 2])
    assert mask_statistics([batch_with(varied, 0.5)])["correlation"] == 0.0
    assert mask_statistics([batch_with(ramp, lam) for lam in (0.1, 0.9)])["correlation"] == 0.0


def test_a_grid_shows_the_images_it_was_given(tmp_path):
    """Red own images, blue partners, a mask of halves: the colours are found where they belong."""
    own = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 6, 10)
    partner = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(2, 3, 6, 10)
    half = torch.zeros(2, 1, 6, 10)
    half[..., :5] = 1

    def mix(lam):
        return pair_batch(
            Mixed(own * half + partner * (1 - half), torch.full((2,), lam), half),
            torch.zeros(2).long(),
            torch.arange(2),
        )

    mix_grid(tmp_path / "grid.png", own, partner, mix, (0.5,), lambda x: x)
    grid = picture(tmp_path / "grid.png")
    red = (grid[..., 0] > 200) & (grid[..., 1] < 50) & (grid[..., 2] < 50)
    blue = (grid[..., 2] > 200) & (grid[..., 1] < 50) & (grid[..., 0] < 50)
    middle = grid.shape[1] // 2
    assert red[:, middle + 5 :].sum() > 2 * red[:, : middle - 5].sum() > 0  # own on the right
    assert blue[:, : middle - 5].sum() > 2 * blue[:, middle + 5 :].sum() > 0


def shown_texts(monkeypatch, paint):
    """The texts of the figure that is painted."""
    made = []
    monkeypatch.setattr("samix.viz.pictures.figure", lambda *size: made.append(figure(*size)) or made[-1])
    paint()
    axes = [ax.get_title() for ax in made[0].axes if ax.get_title()]
    return made[0].get_suptitle(), axes, made[0]


@pytest.mark.parametrize(
    ("weights", "above", "legend"),
    [
        ((0.5, 0.5), "0.50", "White: pixel from image A. Number: mean of the mask."),
        (
            (0.3, 0.7),
            "0.50",
            "White: pixel from image A. Number: mean of the mask.",
        ),  # lam
        ((0.8, 0.2), "0.50 | 0.80", "mean of the mask | share of A in the label."),
        ((0.4, 0.2), "0.50 | 0.40 + 0.20", "mean of the mask | shares of A + B in the label."),
    ],
)
def test_a_label_is_told_where_neither_mask_nor_lam_tells_it(weights, above, legend, tmp_path, monkeypatch):
    mask = torch.zeros(2, 1, 6, 6)
    mask[..., :3] = 1
    pixels, labels = torch.rand(2, 3, 6, 6), torch.zeros(2, 2).long()
    batch = MixedBatch(pixels, labels, torch.tensor([weights, weights]), labels, mask)
    title, texts, _ = shown_texts(
        monkeypatch,
        lambda: mix_grid(tmp_path / "a.png", pixels, pixels, lambda lam: batch, (0.3,), lambda x: x, "name"),
    )
    assert texts == ["image B", "λ = 0.3", "image A", above, above]
    assert title.startswith("name\n")
    assert title.endswith(legend)


def test_constant_masks_are_left_out_and_maps_are_painted(tmp_path, monkeypatch):
    pixels = torch.rand(2, 3, 6, 6)

    def mix(lam):
        return MIXUPS["mixup"]()(pixels, torch.arange(2), lam=lam, index=torch.tensor([1, 0]))

    title, texts, fig = shown_texts(
        monkeypatch, lambda: mix_grid(tmp_path / "a.png", pixels, pixels, mix, (0.3, 0.6), lambda x: x, "name")
    )
    assert (title, texts, len(fig.axes)) == ("name", ["image B", "λ = 0.3", "λ = 0.6", "image A"], 8)
    maps = torch.zeros(2, 3, 3), torch.rand(2, 3, 3)
    _, texts, fig = shown_texts(
        monkeypatch,
        lambda: mix_grid(tmp_path / "b.png", pixels, pixels, mix, (0.3,), lambda x: x, "name", guides=maps),
    )
    below = fig.axes[3:6]
    assert [ax.get_title() for ax in below] == ["map", "0.30", "map"]
    seen = [np.asarray(ax.images[0].get_array()) for ax in (below[0], below[2])]
    np.testing.assert_allclose(seen[0], maps[1][0] / maps[1][0].max(), rtol=1e-5)  # the partner's, on the left
    assert seen[1].max() == 0  # an empty map divides nothing by nothing


def test_batches_of_many_sources_tell_where_they_are_from(tmp_path, monkeypatch):
    pixels, labels = torch.rand(3, 3, 6, 6), torch.zeros(3, 3).long()
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.25, 0.25, 0.5], [0.6, 0.0, 0.4]])
    index = torch.tensor([[0, 2, 1], [1, 0, 2], [2, 0, 1]])
    batch = MixedBatch(pixels, labels, weights, index)
    _, texts, fig = shown_texts(
        monkeypatch, lambda: source_grid(tmp_path / "a.png", pixels, [batch, batch], lambda x: x, "name")
    )
    assert texts == ["image 1", "image 2", "image 3"] + 2 * [
        "3: 1.00",
        "3: 0.50   2: 0.25\n1: 0.25",
        "3: 0.60   2: 0.40",
    ]
    assert len(fig.axes) == 9


def test_an_even_number_of_files_makes_pairs_and_an_odd_one_a_ring():
    assert [part.tolist() for part in pairs_of(2)] == [[0], [1, 0]]
    assert [part.tolist() for part in pairs_of(3)] == [[0, 1, 2], [1, 2, 0]]
    assert [part.tolist() for part in pairs_of(4)] == [[0, 2], [1, 0, 3, 2]]
    assert [part.tolist() for part in pairs_of(7)] == [[0, 1, 2, 3], [1, 2, 3, 4, 5, 6, 0]]
    assert [part.tolist() for part in pairs_of(10)] == [[0, 2, 4, 6], [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]]


def test_titles_say_what_a_picture_by_name_shows():
    titles = {name: title_of(name, kind()) for name, kind in MIXUPS.items()}
    assert all(title.startswith(name) for name, title in titles.items())
    assert titles["cutmix"] == "cutmix"
    assert titles["saliencymix"] == "saliencymix: by spectral residuals"
    assert titles["puzzlemix"] == "puzzlemix: by spectral residuals in place of the network's maps"
    assert titles["deit"].endswith("mixed by mixup or cutmix")
    assert titles["mixpro"].endswith("images as maskmix mixes them; the label's shares need the network")
    assert titles["alignmix"].endswith("mixed at the input, where it is mixup")
    fine = build_mixup("saliencymix", {"saliency": "fine"})
    assert title_of("saliencymix", fine) == "saliencymix: by fine-grained saliency"


@pytest.mark.parametrize("name", list(MIXUPS))
def test_every_mixup_is_painted_by_name(name, photos, tmp_path):
    files = photos[: 4 if name == "comixup" else 2]
    told = show(name, files, tmp_path / "out.png", size=32, lams=(0.4,))
    assert told.startswith(f"{tmp_path / 'out.png'}: spread within a mask ")
    assert picture(tmp_path / "out.png").std() > 5


def test_a_choice_between_mixups_shows_all_of_them():
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    index = torch.tensor([1, 0, 3, 2])
    mix = mixup_at(MIXUPS["deit"](), images, labels, index, 0, None)
    soft = [bool(((b := mix(lam)).mask > 0).logical_and(b.mask < 1).any()) for lam in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert set(soft) == {True, False}
    assert torch.equal(mix(0.5).images, mix(0.5).images)


def test_maps_are_the_mixup_s_own_where_it_needs_no_network():
    images, labels = torch.rand(2, 3, 16, 16), torch.arange(2)
    assert MIXUPS["cutmix"]().preview_guide(images, labels) is None
    own = MIXUPS["guidedmixup"]()
    assert torch.equal(own.preview_guide(images, labels), own.look(images, labels, None))
    assert MIXUPS["snapmix"]().preview_guide(images, labels).shape == (2, 16, 16)


def test_curves_of_one_epoch_and_of_rows_with_gaps(tmp_path):
    plot_curves(tmp_path / "one.png", [{"epoch": 1, "mixed": 2.0, "top1": 10.0}])
    gaps = [
        {"epoch": 1, "mixed": 2.0},
        {"epoch": 2, "mixed": 1.5, "top1": 20.0},
        {"epoch": 3, "mixed": 1.2, "top1": 30.0},
    ]
    plot_curves(tmp_path / "gaps.png", gaps)
    assert picture(tmp_path / "one.png").std() > 5
    assert picture(tmp_path / "gaps.png").shape[1] > 1.5 * picture(tmp_path / "gaps.png").shape[0]  # two panels


def test_a_picture_of_another_program_is_not_replaced(tmp_path):
    from samix.cli.show import show

    out = tmp_path / "mixed.png"
    out.write_bytes(b"a photograph")
    with pytest.raises(FileExistsError, match="was not written by samix"):
        show(["cutmix", "--out", str(out), "--size", "16"])
    out.unlink()
    for _ in range(2):  # its own picture is drawn anew
        assert show(["cutmix", "--out", str(out), "--size", "16", "--lams", "0.5"]) == 0


def test_a_disk_that_is_full_leaves_no_part_of_a_picture(tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        assert main(["show", "mixup", "--out", str(tmp_path / "mixed.png")]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.match(r"samix: cannot write .*/mixed.png: File too large; free some space", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []
