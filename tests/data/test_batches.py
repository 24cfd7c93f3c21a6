"""Batches: a pure function of (seed, epoch, step), whatever the workers, the resume and the ranks; nothing twice."""

import pytest
import torch
from PIL import Image

from samix.data import (
    ArrayImages,
    Augment,
    EvalBatches,
    FileImages,
    ImageData,
    TrainBatches,
    ViewAugment,
    denormalize,
    normalize,
)
from samix.data.images import file_names, no_labels
from samix.data.order import balanced_order, epoch_order, stream_seed

CROP, RESIZED = Augment("crop-flip"), Augment("resized-crop-full")
VIEWS = (ViewAugment("moco-v2"), ViewAugment("byol"), ViewAugment("swav", small_crops=2))
# Python 3.12 and later warn of any fork while threads run; DataLoader forks by default.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def data():
    """22 noise images whose labels number them, so that a batch tells who is in it."""
    pixels = torch.randint(0, 256, (29, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train = ArrayImages(pixels[:22], torch.arange(22))
    val = ArrayImages(pixels[22:], torch.arange(7))
    return ImageData("toy", train, val, tuple(map(str, range(22))), native_size=8)


def make(data, batch_size=4, **options):
    return TrainBatches(data, batch_size=batch_size, **{"size": 8, "augment": CROP, "seed": 3, **options})


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@forks
@pytest.mark.parametrize("augment", [CROP, RESIZED, Augment("resized-crop", randaugment=9, random_erasing=0.5)])
def test_batches_do_not_depend_on_the_number_of_workers(data, augment):
    alone, workers = make(data, augment=augment), make(data, augment=augment, workers=2)
    for epoch in (0, 1):
        assert same(list(alone.epoch(epoch)), list(workers.epoch(epoch)))


@forks
def test_an_epoch_left_early_does_not_leak_into_the_next(data):
    batches = make(data, workers=2)
    next(batches.epoch(0))
    assert same(list(batches.epoch(1)), list(make(data).epoch(1)))


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("augment", [CROP, RESIZED, Augment("none")])
def test_a_resumed_epoch_equals_the_rest_of_a_whole_one(data, on_device, augment):
    batches = make(data, on_device=on_device, augment=augment)
    whole = list(batches.epoch(2))
    assert len(whole) == len(batches) == 5
    assert same(list(make(data, on_device=on_device, augment=augment).epoch(2, start_step=3)), whole[3:])
    assert list(batches.epoch(2, start_step=5)) == []


def test_a_resumed_epoch_does_not_decode_what_it_skips(data):
    class Counting(ArrayImages):
        seen = 0

        def image(self, index):
            Counting.seen += 1
            return super().image(index)

    images = Counting(data.train.images, data.train.labels)
    list(make(ImageData("toy", images, data.val, data.class_names)).epoch(0, start_step=4))
    assert Counting.seen == 4


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("augment", [CROP, RESIZED])
def test_two_ranks_together_see_what_one_sees(data, on_device, augment):
    one = list(make(data, 6, on_device=on_device, augment=augment).epoch(1))
    two = [list(make(data, 3, rank=r, world_size=2, on_device=on_device, augment=augment).epoch(1)) for r in (0, 1)]
    joined = [(torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in zip(*two, strict=True)]
    assert same(joined, one)


@pytest.mark.parametrize("on_device", [False, True])
def test_an_epoch_shows_no_image_twice_and_epochs_differ(data, on_device):
    batches = make(data, 11, on_device=on_device)
    seen = [torch.cat([labels for _, labels in batches.epoch(epoch)]) for epoch in (0, 1)]
    for labels in seen:
        assert labels.sort().values.tolist() == list(range(22))
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("on_device", [False, True])
def test_batches_are_normalised_floats_with_their_own_labels(data, on_device):
    for images, labels in make(data, augment=Augment("none"), on_device=on_device).epoch(0):
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert torch.equal(images, normalize(data.train.images[labels], data.mean, data.std))


@pytest.mark.parametrize("on_device", [False, True])
def test_the_same_image_is_varied_anew_in_each_epoch_and_for_each_seed(data, on_device):
    def by_label(epoch, seed):
        images, labels = map(torch.cat, zip(*make(data, 11, on_device=on_device, seed=seed).epoch(epoch), strict=True))
        return images[labels.argsort()]

    a, b, c = by_label(0, seed=3), by_label(1, seed=3), by_label(0, seed=4)
    for other in (b, c):
        changed = (a != other).flatten(1).any(1)
        assert changed.float().mean() > 0.6  # a shift and flip of 18 may repeat


@pytest.mark.parametrize("on_device", [False, True])
def test_loading_leaves_the_callers_generator_alone(data, on_device):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    list(make(data, on_device=on_device).epoch(0))
    list(EvalBatches(data, batch_size=4, size=8, augment=CROP, on_device=on_device).batches())
    assert torch.equal(torch.rand(3), expected)


def test_iterators_made_before_use_keep_their_epoch(data):
    batches = make(data)
    early, late = batches.epoch(0), batches.epoch(1, start_step=2)
    assert same(list(early), list(make(data).epoch(0)))
    assert same(list(late), list(make(data).epoch(1))[2:])


def test_order_is_a_seeded_permutation():
    assert epoch_order(50, 1, 2).sort().values.tolist() == list(range(50))
    assert torch.equal(epoch_order(50, 1, 2), epoch_order(50, 1, 2))
    orders = [epoch_order(50, seed, epoch) for seed, epoch in ((1, 2), (2, 1), (1, 1), (2, 2))]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)  # both the seed and the epoch decide
    seeds = {stream_seed(purpose, a, b) for purpose in ("order", "image") for a in range(30) for b in range(30)}
    assert len(seeds) == 1800
    assert all(0 <= seed < 2**63 for seed in seeds)


@forks
@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"on_device": True}])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_covers_each_image_once_in_order(data, options, world_size):
    images, labels = [], []
    for rank in range(world_size):
        batches = EvalBatches(data, batch_size=2, size=8, augment=CROP, rank=rank, world_size=world_size, **options)
        found = list(batches.batches())
        assert len(found) == len(batches)
        assert [len(y) for _, y in found[:-1]] == [2] * (len(found) - 1)
        images += [x for x, _ in found]
        labels += [y for _, y in found]
    assert torch.cat(labels).tolist() == list(range(7))
    assert torch.equal(torch.cat(images), normalize(data.val.images, data.mean, data.std))


def test_evaluation_may_be_repeated_and_may_use_the_train_split(data):
    batches = EvalBatches(data, batch_size=5, size=8, augment=CROP, split="train")
    assert same(list(batches.batches()), list(batches.batches()))
    assert len(batches) == 5
    empty = EvalBatches(data, batch_size=5, size=8, augment=CROP, rank=0, world_size=8)
    assert (len(empty), list(empty.batches()), empty.rows) == (0, [], range(0))


def test_images_in_files_give_the_same_on_the_device_as_decoded_one_by_one(tmp_path):
    pixels = torch.randint(0, 256, (300, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for k, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).numpy().copy()).save(tmp_path / f"{k}.png")
    images = FileImages(tmp_path, file_names([f"{k}.png" for k in range(300)]), torch.zeros(300, dtype=torch.int64))
    data = ImageData("toy", images, images, ("only",))
    pairs = [
        list(EvalBatches(data, batch_size=64, size=8, augment=Augment("resized-crop"), on_device=on_device).batches())
        for on_device in (False, True)
    ]
    assert same(*pairs)


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_named_when_it_is_read(tmp_path, workers):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = FileImages(tmp_path, file_names(["broken.jpg"]), torch.tensor([0]))
    data = ImageData("toy", images, images, ("only",))
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        next(make(data, 1, workers=workers).epoch(0))
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        make(data, 1, on_device=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 23}, r"the batch of 23 is larger than the 22 training images"),
        ({"batch_size": 12, "world_size": 2}, r"the batch of 24 is larger than the 22 .* at most 22"),
        ({"batch_size": 0}, r"batch_size must be >= 1, size >= 2 and workers >= 0, got 0, 8 and 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in 0..world_size - 1, got rank 2 of 2"),
        ({"augment": Augment("none", randaugment=9), "on_device": True}, "on_device has no RandAugment and no random"),
    ],
)
def test_wrong_options_are_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        make(data, **options)


def test_wrong_steps_and_splits_are_refused(data):
    for epoch, start_step in ((-1, 0), (0, 6), (0, -1)):
        with pytest.raises(ValueError, match=rf"epoch must be >= 0 and start_step in 0..5, got epoch {epoch}, start"):
            make(data).epoch(epoch, start_step)
    with pytest.raises(ValueError, match="split must be one of train, val; got 'test'"):
        EvalBatches(data, batch_size=2, size=8, augment=CROP, split="test")


def make_views(data, batch_size=4, **options):
    options = {"views": VIEWS[0], "size": 8, "seed": 3, **options}
    return TrainBatches(data, batch_size=batch_size, **options)


def flat(batches):
    """Batches as tuples of tensors, the further views among them."""
    return [(*batch[:3], *(batch[3] if len(batch) > 3 else ())) for batch in batches]


@forks
@pytest.mark.parametrize("views", VIEWS)
def test_batches_of_views_do_not_depend_on_the_number_of_workers(data, views):
    alone, workers = make_views(data, views=views), make_views(data, views=views, workers=2)
    for epoch in (0, 1):
        assert same(flat(alone.epoch(epoch)), flat(workers.epoch(epoch)))


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("views", VIEWS)
def test_a_resumed_epoch_of_views_equals_the_rest_of_a_whole_one(data, on_device, views):
    whole = flat(make_views(data, on_device=on_device, views=views).epoch(2))
    assert len(whole) == 5
    assert same(flat(make_views(data, on_device=on_device, views=views).epoch(2, start_step=3)), whole[3:])


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("views", VIEWS)
def test_two_ranks_together_see_the_views_that_one_sees(data, on_device, views):
    options = {"on_device": on_device, "views": views}
    one = flat(make_views(data, 6, **options).epoch(1))
    two = [flat(make_views(data, 3, rank=rank, world_size=2, **options).epoch(1)) for rank in (0, 1)]
    for whole, *halves in zip(one, *two, strict=True):
        for expected, *parts in zip(whole, *halves, strict=True):
            # Sums over a batch of another size may be rounded otherwise, by matrix products on the device.
            torch.testing.assert_close(torch.cat(parts), expected, atol=1e-5 if on_device else 0, rtol=0)


@pytest.mark.parametrize("on_device", [False, True])
def test_ids_are_rows_of_the_train_split_and_views_are_of_those_images(on_device):
    shades = torch.arange(5, 245, 10, dtype=torch.uint8)  # 24 constant images, which crop and blur leave alone
    images = ArrayImages(shades[:, None, None, None].expand(-1, 3, 8, 8).contiguous(), torch.zeros(24).long())
    data = ImageData("shades", images, images, ("only",), native_size=8)
    views, seen = ViewAugment("byol", strength=0), []
    for view_q, view_k, ids in make_views(data, 8, on_device=on_device, views=views).epoch(0):
        assert (ids.dtype, ids.shape) == (torch.int64, (8,))
        seen += ids.tolist()
        for view in (view_q, view_k):
            assert (view.dtype, view.shape) == (torch.float32, (8, 3, 8, 8))
            level = denormalize(view, data.mean, data.std).mean((1, 2, 3)) * 255
            either = torch.stack([shades[ids].float(), 255 - shades[ids].float()])  # as it is, or solarised
            assert (level - either).abs().amin(0).max() < 1.1
    assert sorted(seen) == list(range(24))


@pytest.mark.parametrize("on_device", [False, True])
def test_the_two_views_of_an_image_differ_and_change_with_epoch_and_seed(data, on_device):
    def views(epoch, seed):
        view_q, view_k, ids = next(make_views(data, 22, on_device=on_device, seed=seed).epoch(epoch))
        return torch.stack([view_q, view_k])[:, ids.argsort()]

    first = views(0, 3)
    for other in (first.flip(0), views(1, 3), views(0, 4)):
        assert (first != other).flatten(2).any(2).all()


@pytest.mark.parametrize("on_device", [False, True])
def test_multi_crop_puts_small_views_behind_the_ids(data, on_device):
    views = ViewAugment("swav", small_crops=3, small_size=5)
    view_q, view_k, ids, extra_views = next(make_views(data, on_device=on_device, views=views).epoch(0))
    assert view_q.shape == view_k.shape == (4, 3, 8, 8)
    assert isinstance(extra_views, tuple)
    assert [view.shape for view in extra_views] == [(4, 3, 5, 5)] * 3
    assert ids.shape == (4,)
    two = next(make_views(data, on_device=on_device, views=ViewAugment("swav", small_crops=0)).epoch(0))
    assert len(two) == 3


@pytest.mark.parametrize("on_device", [False, True])
def test_loading_views_leaves_the_callers_generator_alone(data, on_device):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    list(make_views(data, on_device=on_device).epoch(0))
    assert torch.equal(torch.rand(3), expected)


@pytest.fixture(scope="module")
def unlabelled(data):
    return ImageData(
        "bare", ArrayImages(data.train.images, no_labels(22)), ArrayImages(data.val.images, no_labels(7)), ()
    )


@pytest.mark.parametrize("on_device", [False, True])
def test_data_without_labels_give_the_same_views_as_with_them(data, unlabelled, on_device):
    bare = ImageData("bare", unlabelled.train, unlabelled.val, (), native_size=8)
    assert same(*(flat(make_views(d, on_device=on_device).epoch(0)) for d in (data, bare)))


def test_labelled_batches_of_data_without_labels_are_refused(unlabelled):
    with pytest.raises(ValueError, match="bare has no labels to learn from; use `samix pretrain`, which needs none"):
        make(unlabelled)
    labels = [y for _, y in EvalBatches(unlabelled, batch_size=4, size=8, augment=CROP, split="train").batches()]
    assert torch.equal(torch.cat(labels), no_labels(22))  # features may still be taken


def test_neither_augment_nor_views_is_refused(data):
    with pytest.raises(ValueError, match="training batches need augment, or views for training without labels; got"):
        make_views(data, views=None)


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_and_balances_classes():
    labels = torch.tensor([0] * 20 + [1] * 3 + [2] * 4)
    orders = [epoch_order(40, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    balanced = [balanced_order(labels, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for several in (orders, [order.tolist() for order in balanced]):
        assert all(a != b for n, a in enumerate(several) for b in several[:n])
    for order in balanced:
        assert labels[order].bincount().tolist() == [9, 9, 9]
    counts = balanced_order(torch.tensor([0] * 5 + [1] * 2 + [2]), 0, 0)
    assert sorted(torch.tensor([0] * 5 + [1] * 2 + [2])[counts].bincount().tolist()) == [2, 3, 3]
