"""The adapters: timm's Mixup draw for draw, collating in workers, transforms called as torchvision's are."""

import pickle

import numpy as np
import pytest
import timm.data.mixup as timm_mixup
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import samix
from samix.batch import MixedBatch
from samix.compat.loader import MixCollate, MixTransform, check_input_stage
from samix.compat.timm import Mixup, TimmMixup
from samix.mixups.base import Requirements
from samix.mixups.choice import DeiTMix
from samix.mixups.guided import GuidedAugmentation
from samix.mixups.handmade import RandomChoice

K = 7


def data(batch: int = 8, size=(3, 33, 24)) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, *size), torch.arange(batch) % K


# timm -----------------------------------------------------------------------------------------------------------------


def timm_and_ours(monkeypatch, kwargs, images, labels):
    """Both outputs under one set of draws: timm's own random calls are answered from our draws."""
    ours = Mixup(num_classes=K, generator=torch.Generator().manual_seed(3), **kwargs)
    cut, lam, place = ours.mixup.draw_rows(len(images))
    monkeypatch.setattr(ours.mixup, "draw_rows", lambda size: (cut, lam, place))
    theirs = timm_mixup.Mixup(num_classes=K, **kwargs)
    size = {"batch": 1, "elem": len(images), "pair": len(images) // 2}[theirs.mode]
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (float(lam[0]), bool(cut[0])))
    monkeypatch.setattr(theirs, "_params_per_elem", lambda n: (lam[:n].numpy().copy(), cut[:n].numpy().copy()))
    rows = [i for i in range(size) if cut[i] and lam[i] != 1.0]
    queue = [float(u) for i in rows for u in (place[i] if theirs.cutmix_minmax is not None else place[i, :2])]

    def randint(low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        return low + int(np.floor(np.float32(queue.pop(0)) * np.float32(high - low)))

    monkeypatch.setattr(np.random, "randint", randint)
    expected = theirs(images.clone(), labels)
    assert not queue
    return ours(images, labels), expected


@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"mixup_alpha": 0.8},
        {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
        {"mixup_alpha": 0.0, "cutmix_alpha": 1.0, "correct_lam": False},
        {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.7},
        {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8), "prob": 0.8},
        {"mixup_alpha": 1.0, "cutmix_minmax": (0.2, 0.8), "label_smoothing": 0.0},
    ],
    ids=str,
)
def test_given_the_same_draws_it_is_timm_s_mixup(monkeypatch, mode, kwargs):
    for trial in range(4):
        torch.manual_seed(trial)
        images, labels = data()
        before = images.clone()
        with monkeypatch.context() as patch:
            (x, target), (their_x, their_target) = timm_and_ours(patch, {**kwargs, "mode": mode}, images, labels)
        torch.testing.assert_close(x, their_x, atol=1e-6, rtol=0)
        torch.testing.assert_close(target, their_target, atol=1e-6, rtol=0)
        assert torch.equal(images, before)


def test_multi_label_targets_are_smoothed_as_timm_s(monkeypatch):
    images, labels = data()[0], torch.rand(8, K).round()
    (_, target), (_, expected) = timm_and_ours(monkeypatch, {"mode": "batch", "multi_label": True}, images, labels)
    torch.testing.assert_close(target, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
def test_the_draws_have_timm_s_spread(mode):
    np.random.seed(0)  # noqa: NPY002
    ours = Mixup(0.8, 1.0, prob=0.6, switch_prob=0.3, mode=mode, num_classes=K)
    theirs = timm_mixup.Mixup(0.8, 1.0, prob=0.6, switch_prob=0.3, mode=mode, num_classes=K)
    labels, kept = torch.arange(4), {"ours": [], "theirs": []}
    for _ in range(800):
        for name, fn in (("ours", ours), ("theirs", theirs)):
            _, target = fn(torch.zeros(4, 1, 16, 16), labels)
            kept[name].append(target[torch.arange(4), labels])
    one, two = (torch.stack(rows) for rows in kept.values())
    assert abs(float(one.mean() - two.mean())) < 0.03
    assert abs(float(one.std() - two.std())) < 0.03
    assert abs(float((one > 0.91).float().mean() - (two > 0.91).float().mean())) < 0.05
    alike = (one[:, 1] == one[:, 2]).float().mean()
    assert (alike > 0.99) == (mode != "elem")


def test_disabled_it_smooths_and_does_not_mix():
    images, labels = data()
    mixup_fn = TimmMixup(samix.CutMix(), num_classes=K)
    mixup_fn.mixup_enabled = False
    x, target = mixup_fn(images, labels)
    assert x is images
    torch.testing.assert_close(target, F.one_hot(labels, K) * 0.9 + 0.1 / K)
    mixup_fn.mixup_enabled = True
    assert not torch.equal(mixup_fn(images, labels)[0], images)


def test_any_mixup_of_images_gives_targets_that_sum_to_one():
    images, labels = data(5)
    for mixup in (samix.FMix(), samix.ResizeMix(), DeiTMix(), samix.GridMix()):
        x, target = TimmMixup(mixup, num_classes=K)(images, labels)
        assert x.shape == images.shape
        torch.testing.assert_close(target.sum(1), torch.ones(5))
    assert TimmMixup(samix.FMix()).label_smoothing == 0.1
    x, target = Mixup(1.0, 1.0, num_classes=K, mode="pair")(images, labels)  # odd: timm refuses
    assert torch.equal(x[2], images[2])


# Which mixups ---------------------------------------------------------------------------------------------------------


class Looks(GuidedAugmentation):
    requirements = Requirements(model=True)


@pytest.mark.parametrize("make", [TimmMixup, MixCollate, MixTransform, check_input_stage])
def test_mixups_that_need_the_network_are_refused(make):
    with pytest.raises(ValueError, match="ManifoldMix acts inside or after the forward pass"):
        make(samix.ManifoldMix())
    with pytest.raises(ValueError, match="ManifoldMix acts"):
        make(RandomChoice([samix.CutMix(), samix.ManifoldMix()]))
    with pytest.raises(ValueError, match="Looks looks at the network in training"):
        make(Looks())
    with pytest.raises(TypeError, match=r"as samix.CutMix\(\), got type"):
        make(samix.CutMix)


def test_an_extra_loss_of_weight_zero_does_not_matter():
    check_input_stage(samix.GridMix(style="cells", cell_weight=0.0))
    with pytest.raises(ValueError, match="GridMix acts"):
        check_input_stage(samix.GridMix(style="cells", cell_weight=0.5))


# The loader -----------------------------------------------------------------------------------------------------------


def loader(collate, workers: int = 0, **options) -> DataLoader:
    images, labels = torch.randn(24, 1, 8, 8), torch.arange(24) % K
    return DataLoader(TensorDataset(images, labels), 6, collate_fn=collate, num_workers=workers, **options)


def lams(batches) -> list[float]:
    return [round(float(batch.lam[0]), 6) for batch in batches]


def test_collating_in_the_main_process_gives_batches_or_targets():
    torch.manual_seed(0)
    batches = list(loader(MixCollate(samix.MixUp(pairing="cycle"))))
    assert all(isinstance(batch, MixedBatch) for batch in batches)
    assert len(set(lams(batches))) == 4
    images, targets = next(iter(loader(MixCollate(samix.CutMix(), K, 0.1))))
    assert images.shape == (6, 1, 8, 8)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_draw_for_themselves_anew_in_each_epoch_and_as_torch_is_seeded(persistent):
    def run() -> list[float]:
        torch.manual_seed(7)
        data = loader(MixCollate(samix.MixUp(pairing="cycle")), 2, persistent_workers=persistent)
        return [lam for _ in range(2) for lam in lams(data)]

    first = run()
    assert len(set(first)) == 8
    assert run() == first


def test_two_transforms_in_one_worker_draw_differently():
    torch.manual_seed(1)
    one, two = MixCollate(samix.MixUp(pairing="cycle")), MixCollate(samix.MixUp(pairing="cycle"))

    def both(samples):
        return [float(one(samples).lam[0]), float(two(samples).lam[0])]

    pairs = list(loader(both, 1))
    assert all(a != b for a, b in pairs)


def test_adapters_can_be_pickled_for_workers_that_are_spawned():
    for adapter in (MixCollate(DeiTMix(), K), MixTransform(samix.FMix(), K), Mixup(num_classes=K)):
        again = pickle.loads(pickle.dumps(adapter))
        mixup = again.mixup
        assert torch.equal(mixup.generator.get_state(), adapter.mixup.generator.get_state())
        if isinstance(mixup, RandomChoice):
            assert all(choice.generator is mixup.generator for choice in mixup.choices)


def test_samples_that_are_not_pairs_are_named():
    collate = MixCollate(samix.CutMix())
    with pytest.raises(ValueError, match=r"must be \(image, label\) pairs, got 3 parts"):
        collate([(torch.zeros(1, 8, 8), 0, "name")])
    with pytest.raises(ValueError, match="got dict"):
        collate([{"image": torch.zeros(1, 8, 8), "label": 0}])
    own = MixCollate(samix.CutMix(), collate=lambda s: (torch.stack([x for x, _, _ in s]), torch.tensor([0, 1])))
    assert len(own([(torch.zeros(1, 8, 8), 0, "a"), (torch.zeros(1, 8, 8), 1, "b")]).images) == 2
    with pytest.raises(ValueError, match="give num_classes"):
        MixCollate(samix.CutMix(), smoothing=0.1)


def test_a_batch_moves_with_all_its_parts():
    images, labels = data()
    batch = samix.CutMix()(images, labels)
    moved = batch.to("meta")
    assert {moved.images.device.type, moved.labels.device.type, moved.weights.device.type} == {"meta"}
    assert moved.mask.device.type == moved.index.device.type == "meta"
    full = MixedBatch(batch.images, batch.labels, batch.weights, batch.index, target=torch.ones(8, K),
                      extra={"more": torch.ones(())}).to("meta")  # fmt: skip
    assert full.mask is None
    assert full.target.device.type == full.extra["more"].device.type == "meta"
    same = batch.to("cpu")
    assert torch.equal(same.images, batch.images)
    assert torch.equal(same.loss(torch.ones(8, K)), batch.loss(torch.ones(8, K)))


def test_a_mask_that_is_a_view_of_lam_is_written_out_before_it_is_pinned(monkeypatch):
    def pin(part):
        assert 0 not in part.stride()  # memory cannot be pinned where one number stands for many
        return part.clone()

    batch = samix.MixUp()(*data())
    assert 0 in batch.mask.stride()
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    assert torch.equal(batch.pin_memory().mask, batch.mask)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_is_pinned_and_moved_to_the_gpu():
    batch = next(iter(loader(MixCollate(samix.MixUp()), 1, pin_memory=True)))
    assert batch.images.is_pinned()
    assert batch.mask.is_pinned()
    assert batch.to("cuda", non_blocking=True).images.is_cuda


# The transform --------------------------------------------------------------------------------------------------------


def test_a_transform_gives_images_and_targets_as_torchvision_s():
    images, labels = data()
    for transform in (MixTransform(samix.MixUp(pairing="roll"), K), v2.MixUp(num_classes=K)):
        x, target = transform(images, labels)
        assert x.shape == images.shape
        assert target.shape == (8, K)
        assert target.dtype == torch.float32
        lam = target[1, labels[1]]
        torch.testing.assert_close(x, lam * images + (1 - lam) * images.roll(1, 0), atol=1e-5, rtol=1e-5)


def test_a_transform_runs_in_random_choice_and_compose():
    images, labels = data()
    both = v2.RandomChoice([MixTransform(samix.CutMix(), K), v2.MixUp(num_classes=K)])
    for _ in range(8):
        _, target = both(images, labels)
        torch.testing.assert_close(target.sum(1), torch.ones(8))
    _, target = v2.Compose([v2.Normalize([0.5] * 3, [0.5] * 3), MixTransform(samix.FMix(), K)])(images, labels)
    assert target.shape == (8, K)
    assert "FMix" in repr(MixTransform(samix.FMix(), K))


def test_a_transform_finds_images_and_labels_in_tuples_and_dicts():
    images, labels = data()
    transform = MixTransform(samix.CutMix(), K)
    x, target = transform((images, labels))
    assert target.shape == (8, K)
    names = list(range(8))
    sample = transform({"image": images, "fine_label": labels, "name": names})
    assert sample["fine_label"].shape == (8, K)
    assert sample["name"] == names
    x, sample = transform(images, {"labels": labels, "id": 3})
    assert sample["labels"].shape == (8, K)
    assert sample["id"] == 3
    own = MixTransform(samix.CutMix(), K, labels_getter=lambda sample: sample["y"])
    assert own({"x": images, "y": labels})["y"].shape == (8, K)
    x, target = transform(tv_tensors.Image(images), labels)
    assert isinstance(x, tv_tensors.Image)
    assert type(target) is torch.Tensor
    _, target = MixTransform(samix.CutMix())(images, F.one_hot(labels, K).float())
    assert target.shape == (8, K)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, x, y: t(x, [0, 1]), "no labels found in a tuple whose second entry is list"),
        (lambda t, x, y: t(x), "no labels found in Tensor"),
        (lambda t, x, y: t({"image": x}), "no labels found in a dict with keys image"),
        (lambda t, x, y: t(), "no labels found in tuple"),
        (lambda t, x, y: t(x[0], y), r"need images \(B, C, H, W\), .* beside the labels: \(3, 33, 24\)"),
        (lambda t, x, y: t(x.numpy(), y), "beside the labels: none"),
        (lambda t, x, y: t(tv_tensors.Image(x[0]), y), r"beside the labels: \(3, 33, 24\)"),
        (lambda t, x, y: t({"a": tv_tensors.Image(x), "b": tv_tensors.Image(x), "labels": y}), "hold 2 tv_ten"),
        (lambda t, x, y: t(tv_tensors.Image(x), y, tv_tensors.Mask(x[:, 0])), "Mask would stay as it is"),
        (lambda t, x, y: MixTransform(samix.CutMix())(x, x[:, 0].long()), r"or targets \(B, K\), got \(8, 33, 24\)"),
        (lambda t, x, y: MixTransform(samix.CutMix(), K, labels_getter=lambda s: s[1] + 0)(x, y), "must return"),
        (lambda t, x, y: t(x, y[:3]), r"labels must have shape \(8,\)"),
        (lambda t, x, y: t(x, y + 5), r"labels must be in \[0, 6\]"),
        (lambda t, x, y: MixTransform(samix.CutMix())(x, y), "num_classes must be given"),
        (lambda t, x, y: MixTransform(samix.CutMix(), labels_getter="y"), 'must be "default" or a function'),
        (lambda t, x, y: MixTransform(samix.CutMix(), 0), "num_classes must be at least 1, got 0"),
        (lambda t, x, y: Mixup(0.0, 0.0), "nothing to mix: set mixup_alpha or cutmix_alpha"),
        (lambda t, x, y: Mixup(mode="half"), "unknown mode 'half'; choose batch, elem or pair"),
        (lambda t, x, y: Mixup(switch_prob=2.0), r"switch_prob must be in \[0, 1\], got 2.0"),
        (lambda t, x, y: Mixup(cutmix_minmax=(0.5,)), "cutmix_minmax needs two shares"),
        (lambda t, x, y: Mixup(cutmix_minmax=(0.8, 0.2)), "cutmix_minmax needs two shares"),
        (lambda t, x, y: Mixup(0.0, cutmix_minmax=(0.01, 0.02), num_classes=K)(x, y), "leaves no side to draw at 33"),
        (lambda t, x, y: Mixup(multi_label=True, num_classes=K)(x, y), r"multi_label needs float targets \(B, 7\)"),
        (lambda t, x, y: Mixup(label_smoothing=1.0), r"smoothing must be in \[0, 1\), got 1.0"),
        (lambda t, x, y: TimmMixup(samix.CutMix(), 3)(x, y), r"labels must be in \[0, 2\], got values from 0 to 6"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(MixTransform(samix.CutMix(), K), *data())
