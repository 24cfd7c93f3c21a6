"""Every mixup with every kind of labels: the loss that fits the kind, or a message that says what to do."""

import math

import pytest
import torch
import torch.nn.functional as F
from mixup_kinds import every_mixup, network_of, trainable

from samix.batch import MixedBatch, check_labels, target_kind, target_loss, unmixed
from samix.losses.supervised import binary_cross_entropy
from samix.methods.supervised import Supervised
from samix.mixups import MIXUPS
from samix.mixups.boxes import CutMix
from samix.mixups.handmade import MixUp, RandomChoice
from samix.mixups.relabelling import Relabelling
from samix.train.steps import seed_draws

K = 5
IDS = torch.tensor([0, 3, 1, 4, 2, 0])
HOT = F.one_hot(IDS, K)
MULTI = torch.tensor(
    [[1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
)
LABELS = {
    "ids": IDS,
    "one-hot": HOT.float(),
    "one-hot int64": HOT,
    "soft": torch.tensor([[0.5, 0.5, 0, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2], *HOT[2:].tolist()]),
    "multi-hot": MULTI.float(),
    "multi-hot int64": MULTI,
    "values": torch.tensor([1.0, -2.0, 0.5, 4.0, 0.0, 3.0]),
    "pairs of values": torch.tensor([[1.0, -2.0], [0.5, 4.0], [0.0, 3.0], [2.0, 2.0], [-1.0, 0.0], [5.0, 1.0]]),
}
OUTPUTS = {"values": 1, "pairs of values": 2}
# What a mixup does not take, in training; a mixup that is not named here takes every kind.
TARGETS = ("multi-hot", "multi-hot int64", "values", "pairs of values")
REFUSED = {
    "sumix": ("one-hot", "one-hot int64", "soft", *TARGETS),
    "mixpro": TARGETS,
    "smmix": TARGETS,
    "recursivemix": TARGETS,
    "snapmix": TARGETS[2:],
    "tokenmix": TARGETS[2:],
}


def images_of() -> torch.Tensor:
    return torch.randn(len(IDS), 3, 32, 32, generator=torch.Generator().manual_seed(1))


def method_of(name: str, kind: str) -> Supervised:
    outputs = OUTPUTS.get(kind, K)
    net = network_of(name, outputs)
    mixup = trainable(name)
    return Supervised(net, mixup, num_classes=None if kind in OUTPUTS else K).eval()


def by_loops(logits: torch.Tensor, batch: MixedBatch, kind: str) -> float:
    """The loss of a batch that fits its kind, one number at a time."""
    total, count = 0.0, 0
    for row, z in enumerate(logits.double().tolist()):
        shares = batch.weights[row].tolist()
        columns = len(z)
        if batch.target is not None:
            target = batch.target[row].tolist()
        elif batch.labels.dim() == 2 and not batch.labels.is_floating_point():
            target = [
                sum(w for w, at in zip(shares, batch.labels[row].tolist(), strict=True) if at == k) for k in range(K)
            ]
        else:
            sources = batch.labels[row].reshape(len(shares), -1).tolist()
            target = [sum(w * source[k] for w, source in zip(shares, sources, strict=True)) for k in range(columns)]
        if "value" in kind:
            terms = [(a - b) ** 2 for a, b in zip(z, target, strict=True)]
        elif "multi" in kind:
            terms = [
                -(t * math.log(1 / (1 + math.exp(-a))) + (1 - t) * math.log(1 - 1 / (1 + math.exp(-a))))
                for a, t in ((a, min(t, 1.0)) for a, t in zip(z, target, strict=True))
            ]
        else:
            norm = math.log(sum(math.exp(a) for a in z))
            terms = [sum(t * (norm - a) for a, t in zip(z, target, strict=True))]
        total, count = total + sum(terms), count + len(terms)
    return total / count


@every_mixup
@pytest.mark.parametrize("kind", LABELS)
def test_each_mixup_trains_each_kind_by_its_loss_or_says_what_to_do(name, kind):
    method, images, labels = method_of(name, kind), images_of(), LABELS[kind]
    seed_draws(method, 0, 0, 0)
    if kind in REFUSED.get(name, ()):
        with pytest.raises(ValueError, match=r"; use |give class ids|; call mix|set weight=0|maps=\"area\""):
            method((images, labels))
        return
    loss, parts = method((images, labels))
    loss.backward()
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in method.model.parameters())
    if name == "recursivemix":  # the first batch is not mixed, the second one is
        loss, parts = method((images, labels))
    seed_draws(method, 0, 0, 0)
    if name == "recursivemix":
        method.start_epoch()
        method.mixup.forward_through(method.model, images, labels)
    logits, batch = method.mixup.forward_through(method.model, images, labels)
    assert float(parts["mixed"]) == pytest.approx(by_loops(logits.detach(), batch, kind), rel=1e-4)
    assert loss.item() == pytest.approx(float(parts["mixed"] + batch.extra_loss.detach()), rel=1e-4)


@every_mixup
def test_one_hot_labels_train_as_class_ids_do(name):
    losses = []
    for kind in ("ids", "one-hot", "one-hot int64"):
        if kind not in REFUSED.get(name, ()):
            method = method_of(name, kind)
            seed_draws(method, 0, 0, 0)
            losses.append(method((images_of(), LABELS[kind]))[0].item())
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-4)


PIXELS = torch.randint(K, (6, 32, 32), generator=torch.Generator().manual_seed(2))


@every_mixup
def test_labels_at_each_pixel_are_mixed_or_refused_with_what_to_use(name):
    mixup, net = trainable(name), torch.nn.Conv2d(3, K, 1)
    if mixup.requirements.model and name not in ("snapmix", "comixup", "smmix", "puzzlemix"):
        pytest.skip("it reads the last map of a classifier")
    takes = mixup.requirements.preserves_geometry and not isinstance(mixup, Relabelling)
    if not takes:
        with pytest.raises(ValueError, match=r"use CutMix|use PuzzleMix|labels must have shape"):
            Supervised(net, mixup)((images_of(), PIXELS))
        return
    loss, _ = Supervised(net, mixup)((images_of(), PIXELS))
    loss.backward()
    assert net.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (IDS, "class"),
        (IDS.int(), "class"),
        (HOT, "soft"),
        (HOT.double(), "soft"),
        (LABELS["soft"].bfloat16(), "soft"),
        (MULTI, "multilabel"),
        (MULTI[4:], "multilabel"),  # a row that sums to 1 among others
        (torch.tensor([[1], [0], [1]]), "multilabel"),  # yes or no
        (torch.ones(3, 1), "multilabel"),
        (LABELS["values"], "value"),
        (LABELS["pairs of values"], "value"),
        (torch.tensor([[1.5, -0.5], [0.5, 0.5]]), "value"),  # sum to 1, but one is negative
        (torch.full((2, 3), torch.nan), "value"),
        (torch.tensor([[0.2, 0.9], [0.5, 0.1]]), None),
        (PIXELS, "pixel"),
        (torch.rand(2, 4, 4), "pixel"),
    ],
)
def test_the_kind_of_labels(labels, kind):
    assert target_kind(labels) == kind


def test_the_kind_that_is_said_is_taken_and_one_that_cannot_be_is_refused():
    single = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # multi-hot labels that have one class each
    images, logits = torch.randn(2, 3, 8, 8), torch.randn(2, 3)
    said, read = CutMix(targets="multilabel")(images, single), CutMix()(images, single)
    assert (said.kind, read.kind) == ("multilabel", "soft")
    assert said.loss(logits).item() == pytest.approx(binary_cross_entropy(logits, said).item())
    assert said.to("cpu").kind == "multilabel"
    ages = MixUp(targets="value")(images, torch.tensor([20, 40]), lam=0.5, index=torch.tensor([1, 0]))
    assert ages.values.tolist() == [30.0, 30.0]
    between = torch.tensor([[0.2, 0.9], [0.5, 0.1]])
    with pytest.raises(ValueError, match='the loss is not clear; say targets="soft", "multilabel" or "value"'):
        MixUp()(images, between).loss(torch.zeros(2, 2))
    for kind in ("soft", "multilabel", "value"):
        assert MixUp(targets=kind)(images, between).loss(torch.zeros(2, 2)).isfinite()
    with pytest.raises(ValueError, match=r'targets="class" does not fit labels torch.float32'):
        CutMix(targets="class")(images, single)
    with pytest.raises(ValueError, match=r"targets must be one of class, soft, .*did you mean multilabel"):
        CutMix(targets="multi-label")(images, single)


def test_members_and_wrapped_mixups_are_told_the_kind():
    single = HOT.float()
    method = Supervised(network_of("cutmix"), RandomChoice([CutMix(), MixUp()]), targets="multilabel")
    assert method.mixup.choose()(images_of(), single).kind == "multilabel"
    for name in ("transmix", "mixpro"):
        mixup = trainable(name, targets="multilabel")
        assert mixup(images_of(), single).kind == "multilabel"
        assert mixup.instead()(images_of(), single).kind == "multilabel"


def test_a_run_settles_the_kind_by_its_first_batches():
    single, images = HOT.float(), images_of()
    method = Supervised(network_of("cutmix"), CutMix(), num_classes=K)
    method((images, MULTI.float()))
    clean = CutMix(prob=0.0, targets="multilabel")(images, single)
    method.mixup.prob = 0.0
    method.eval()
    loss, _ = method((images, single))  # one class each, by chance
    assert loss.item() == pytest.approx(clean.loss(method.model(images)).item(), rel=1e-5)
    other = Supervised(network_of("cutmix"), CutMix(), num_classes=K)
    other((images, single))
    with pytest.raises(ValueError, match='this batch is multi-hot: say targets="multilabel"'):
        other((images, MULTI.float()))
    said = Supervised(network_of("cutmix"), CutMix(), num_classes=K, targets="multilabel")
    said((images, single))
    said((images, MULTI.float()))


def test_on_an_accelerator_the_device_chooses_the_loss(monkeypatch):
    """The tensors are on the CPU here; only where they say they are is changed."""
    import samix.batch.targets as targets

    z = torch.randn(6, K)
    wanted = {"one-hot": target_loss(z, HOT.float(), "soft"), "multi-hot": target_loss(z, MULTI.float(), "multilabel")}

    class Elsewhere:
        type = "cuda"

    class Rows(torch.Tensor):
        device = Elsewhere()

    for kind, expected in wanted.items():
        rows = LABELS[kind].as_subclass(Rows)
        assert target_kind(rows) is None
        assert target_kind(rows, read=True) is not None
        found = targets.undecided_loss(z, LABELS[kind], rows)
        assert float(found) == pytest.approx(float(expected))
    assert targets.undecided_loss(
        z[:, :2], LABELS["pairs of values"], LABELS["pairs of values"].as_subclass(Rows)
    ).isnan()


def test_integer_rows_other_than_0_and_1_are_refused():
    with pytest.raises(
        ValueError, match=r"must be one-hot or multi-hot, of 0 and 1; got values up to 2; use .float\(\)"
    ):
        check_labels(HOT * 2, 6)


def test_the_unmixed_batch_has_the_plain_loss():
    images, z = images_of(), torch.randn(6, K)
    assert torch.equal(unmixed(images, IDS).loss(z), -torch.log_softmax(z, 1)[range(6), IDS].mean())
    assert float(unmixed(images, MULTI).loss(z)) == pytest.approx(
        float(F.binary_cross_entropy_with_logits(z, MULTI.float()))
    )


def test_every_refusal_is_of_a_mixup_that_exists():
    assert set(REFUSED) <= set(MIXUPS)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([[0.25, 0.75], [1.0, 0.0]], "soft"),
        ([[0.25, 0.25], [0.5, 0.2]], None),  # sums below 1 are no distribution
        ([[0.75, 0.75], [0.5, 0.7]], None),
        ([[-0.5, 1.0], [0.5, 0.5]], "value"),  # below 0, though no number is above 1
        ([[1.0, 1.0], [0.0, 0.0]], "multilabel"),
    ],
)
def test_the_values_of_rows_tell_their_kind(rows, kind):
    assert target_kind(torch.tensor(rows)) == kind
