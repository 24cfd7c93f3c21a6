"""Label-side methods: against loops, closed forms, gradients, the mixups they wrap, and no trace."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from oracles_tokens import aligned, attention_share, cosine, softmax, sumix_distance, sumix_lam, uncertainty_term, unit
from timm.models.deit import VisionTransformerDistilled
from tiny_networks import PlainNet, randomised, tiny_cnn, tiny_vit
from torch import nn

from samix.batch import Mixed, pair_batch
from samix.methods.supervised import Supervised
from samix.mixups import sumix
from samix.mixups.align import AlignMix
from samix.mixups.base import Augmentation
from samix.mixups.handmade import CutMix, FMix, GridMix, MixUp, NoMixup, RandomChoice, ResizeMix, SmoothMix
from samix.mixups.hidden import ManifoldMix
from samix.mixups.maskmix import MaskMix
from samix.mixups.mixpro import MixPro, mixpro_lam, progress_factor
from samix.mixups.patch_cutmix import PatchCutMix
from samix.mixups.sumix import SUMix
from samix.mixups.token_align import TokenLabelAlign, align_labels, token_shares
from samix.mixups.tokenmix import TokenMix
from samix.mixups.transmix import TransMix, attention_lam, transmix_lam
from samix.networks.attention import capture_attention, class_attention

KINDS = {"transmix": TransMix, "mixpro": MixPro, "tla": TokenLabelAlign, "sumix": SUMix}
ATTENTIVE = ["transmix", "mixpro", "tla"]
every_kind = pytest.mark.parametrize("kind", KINDS)
B = 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def vit(**options):
    return randomised(tiny_vit(**options), 0.15).eval()


def batch_of(size=(32, 32)):
    return torch.randn(B, 3, *size), torch.arange(B) % 5


def make(kind, seed=0, **options):
    options = {"switch": 0.0, "pairing": "cycle"} | options
    if kind in ("mixpro",):
        options = {"per_sample": True} | options
    if kind == "tla":
        options = {"patch": 8} | options
    return KINDS[kind](generator=seeded(seed), **options)


# TransMix -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (33, 17)], ids=str)
def test_attention_share_equals_the_loop(size):
    attention, mask = torch.rand(B, 4, 5), (torch.rand(B, 1, *size) < 0.5).float()
    share = attention_lam(attention, mask)
    for i in range(B):
        expected = attention_share(attention[i].double().numpy(), mask[i, 0].numpy())
        assert share[i].item() == pytest.approx(expected, abs=1e-6)
    lam = transmix_lam(attention, mask, ratio=0.3)
    torch.testing.assert_close(lam, 0.7 * mask.mean((1, 2, 3)) + 0.3 * share)
    assert torch.equal(attention_lam(torch.zeros(B, 4, 5), torch.ones(B, 1, *size)), torch.ones(B))


def test_uniform_attention_gives_the_share_of_patches_and_attention_on_the_own_region_one():
    mask = F.interpolate((torch.rand(B, 1, 4, 4) < 0.5).float(), scale_factor=8)
    torch.testing.assert_close(attention_lam(torch.full((B, 4, 4), 0.1), mask), mask.mean((1, 2, 3)))
    own = mask[:, 0, ::8, ::8] * torch.rand(B, 4, 4)
    torch.testing.assert_close(transmix_lam(own, mask), 0.5 * (mask.mean((1, 2, 3)) + 1.0))


def test_transmix_reads_the_attention_of_the_mixed_image():
    model, (images, labels) = vit(), batch_of()
    logits, batch = make("transmix").forward_through(model, images, labels)
    base = CutMix(pairing="cycle", generator=seeded())(images, labels)
    assert torch.equal(batch.images, base.images)
    expected, attention = class_attention(model, base.images)
    torch.testing.assert_close(logits, expected, atol=0, rtol=0)
    for i in range(B):
        share = attention_share(attention[i].double().numpy(), base.mask[i, 0].numpy())
        assert batch.lam[i].item() == pytest.approx((base.lam[i].item() + share) / 2, abs=1e-6)
    assert (batch.lam - base.lam).abs().max() > 1e-3
    torch.testing.assert_close(batch.weights.sum(1), torch.ones(B))
    _, area = make("transmix", ratio=0.0).forward_through(model, images, labels)
    assert torch.equal(area.weights, base.weights)


# MixPro ---------------------------------------------------------------------------------------------------------------


def test_progress_is_the_cosine_of_prediction_and_label():
    logits, target = torch.randn(B, 5, requires_grad=True), torch.rand(B, 5)
    progress = progress_factor(logits, target)
    for i in range(B):
        assert progress[i].item() == pytest.approx(cosine(softmax(logits[i].tolist()), target[i].tolist()), abs=1e-6)
    assert not progress.requires_grad
    share, area = torch.rand(B), torch.rand(B)
    assert torch.equal(mixpro_lam(share, area, torch.zeros(B)), area)
    assert torch.equal(mixpro_lam(share, area, torch.ones(B)), share)
    between = mixpro_lam(share, area, progress)
    assert (between >= torch.minimum(share, area)).all()
    assert (between <= torch.maximum(share, area)).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixpro_is_maskmix_whose_labels_move_from_area_to_attention(smoothing):
    model, (images, labels) = vit(), batch_of()
    logits, batch = make("mixpro", smoothing=smoothing).forward_through(model, images, labels)
    base = MaskMix(pairing="cycle", per_sample=True, generator=seeded())(images, labels)
    assert torch.equal(batch.images, base.images)
    _, attention = class_attention(model, base.images)
    for i in range(B):
        target = [smoothing / 5] * 5
        target[labels[i]] += (1 - smoothing) * base.lam[i].item()
        target[base.partner_labels[i]] += (1 - smoothing) * (1 - base.lam[i].item())
        progress = cosine(softmax(logits[i].tolist()), target)
        share = attention_share(attention[i].double().numpy(), base.mask[i, 0].numpy())
        expected = progress * share + (1 - progress) * base.lam[i].item()
        assert batch.lam[i].item() == pytest.approx(expected, abs=1e-6)


# TL-Align -------------------------------------------------------------------------------------------------------------


def attentions_of(blocks=3, tokens=7):
    return [torch.randn(B, tokens, tokens).mul(2).softmax(2) for _ in range(blocks)]


def test_alignment_equals_the_loop_and_two_columns_say_what_all_classes_say():
    attentions, own = attentions_of(), torch.rand(B, 7, 1)
    shares = torch.cat([own, 1 - own], dim=2)
    two = align_labels(attentions, shares)
    for i in range(B):
        expected = aligned([a[i].double().numpy() for a in attentions], shares[i].double().numpy())
        torch.testing.assert_close(two[i].double(), torch.from_numpy(expected), atol=1e-6, rtol=1e-5)
    a, b = F.one_hot(torch.arange(B) % 5, 5).float(), F.one_hot((torch.arange(B) + 1) % 5, 5).float()
    for smoothing in (0.0, 0.1):
        hot_a, hot_b = ((1 - smoothing) * hot + smoothing / 5 for hot in (a, b))
        full = own * hot_a.unsqueeze(1) + (1 - own) * hot_b.unsqueeze(1)  # (B, T, K)
        all_classes = align_labels(attentions, full)
        expected = two[..., :1] * hot_a.unsqueeze(1) + two[..., 1:] * hot_b.unsqueeze(1)
        torch.testing.assert_close(all_classes, expected)


def test_identity_keeps_labels_uniform_attention_levels_them_and_rows_stay_labels():
    shares = token_shares(torch.rand(B, 1, 8, 8).round(), torch.rand(B), (2, 2), 3)
    assert torch.equal(align_labels([torch.eye(7).expand(B, 7, 7)] * 4, shares), shares)
    uniform = align_labels([torch.full((B, 7, 7), 1 / 7)] * 40, shares)
    torch.testing.assert_close(uniform, shares.mean(1, keepdim=True).expand_as(uniform))
    mixed = align_labels(attentions_of(), shares)
    assert mixed.min() >= 0
    torch.testing.assert_close(mixed.sum(2), torch.ones(B, 7))


def test_token_shares_are_the_patches_pixels_and_the_area_before_them():
    mask = torch.ones(1, 1, 8, 12)
    mask[:, :, :4, :4] = 0.0
    mask[:, :, 4:6, 8:] = 0.0
    shares = token_shares(mask, torch.tensor([0.7]), (2, 3), 2)
    assert shares[0, :, 0].tolist() == pytest.approx([0.7, 0.7, 0, 1, 1, 1, 1, 0.5])
    torch.testing.assert_close(shares.sum(2), torch.ones(1, 8))


@pytest.mark.parametrize(
    "options",
    [{}, {"reg_tokens": 2}, {"global_pool": "avg"}, {"global_pool": "avg", "class_token": False}, {"distilled": True}],
    ids=str,
)
def test_tla_reads_the_label_where_the_classifier_reads(options):
    if "distilled" in options:
        model = VisionTransformerDistilled(img_size=32, patch_size=8, depth=3, embed_dim=48, num_heads=3, num_classes=5)
        randomised(model, 0.15).eval()
    else:
        model = vit(**options)
    images, labels = batch_of()
    logits, batch = make("tla").forward_through(model, images, labels)
    base = PatchCutMix(patch=8, pairing="cycle", generator=seeded())(images, labels)
    assert torch.equal(batch.images, base.images)
    with capture_attention(model) as attentions:
        torch.testing.assert_close(logits, model(base.images))
    prefix = model.num_prefix_tokens
    shares = token_shares(base.mask, base.lam, (4, 4), prefix)
    out = align_labels(attentions, shares)[:, :, 0]
    read = out[:, :2] if "distilled" in options else out[:, prefix:] if "global_pool" in options else out[:, :1]
    torch.testing.assert_close(batch.lam, read.mean(1))
    assert (batch.lam - base.lam).abs().max() > 1e-3
    cells = base.mask[:, 0].unfold(1, 8, 8).unfold(2, 8, 8)
    assert torch.equal(cells.amin((3, 4)), cells.amax((3, 4)))  # every token is pure


# SUMix ----------------------------------------------------------------------------------------------------------------


def test_distances_and_lam_equal_the_loop():
    clean, partner, mixed = torch.randn(3, 40, 4)
    labels, lam = torch.randint(4, (40, 2)), torch.rand(40) * 0.98 + 0.01
    own, other = labels.unbind(1)
    distances = sumix.sumix_distance(clean, mixed, own, other), sumix.sumix_distance(partner, mixed, other, own)
    for kappa in (0.0, 1.0, 20.0):
        moved = sumix.sumix_lam(lam, *distances, labels, kappa)
        for i in range(40):
            a, b = own[i].item(), other[i].item()
            d_a = sumix_distance(clean[i].tolist(), mixed[i].tolist(), a, b)
            d_b = sumix_distance(partner[i].tolist(), mixed[i].tolist(), b, a)
            assert distances[0][i].tolist() == pytest.approx(d_a, abs=1e-6)
            assert moved[i].item() == pytest.approx(sumix_lam(lam[i].item(), d_a, d_b, a, b, kappa), abs=1e-5)
        if kappa == 0.0:
            torch.testing.assert_close(moved, lam)
    assert torch.equal(sumix.sumix_lam(lam, distances[0], distances[0], own.unsqueeze(1).expand(-1, 2), 50.0), lam)


def test_lam_stays_in_range_at_every_kappa_and_rises_with_the_partner_s_distance():
    labels = torch.tensor([[0, 1]]).expand(5, 2)
    lam = torch.tensor([0.0, 1e-6, 0.5, 0.999, 1.0])
    near, far = torch.tensor([[0.1, 0.1]]).expand(5, 2), torch.tensor([[0.9, 0.9]]).expand(5, 2)
    for kappa in (0.0, 100.0, 1e6):
        for pair in ((near, far), (far, near)):
            moved = sumix.sumix_lam(lam, *pair, labels, kappa)
            assert moved.isfinite().all()
            assert moved[0] == 0
            assert moved[4] == 1
    assert (sumix.sumix_lam(lam, near, far, labels, 5.0) >= lam).all()
    assert (sumix.sumix_lam(lam, far, near, labels, 5.0) <= lam).all()
    assert torch.equal(sumix.sumix_lam(lam, near, near, labels, 5.0), lam)


@pytest.mark.parametrize("net", [lambda: PlainNet(norm=False), vit, tiny_cnn], ids=["plain", "vit", "cnn"])
def test_sumix_compares_clean_and_mixed_predictions_of_any_network(net):
    model, (images, labels) = randomised(net(), 0.2).eval(), batch_of()
    mix = make("sumix", kappa=5.0)
    head = mix.attach(model, 5)
    logits, batch = mix.forward_through(model, images, labels)
    base = CutMix(alpha=0.2, pairing="cycle", generator=seeded())(images, labels)
    torch.testing.assert_close(logits, model(base.images))
    kept = []
    layer = model.fc if hasattr(model, "fc") else model.head
    handle = layer.register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
    clean = model(images)
    model(base.images)
    handle.remove()
    u, u_mixed = ([unit(softmax(row)) for row in head(features).tolist()] for features in kept)
    total = 0.0
    for i in range(B):
        j, a, b = base.index[i, 1].item(), labels[i].item(), base.partner_labels[i].item()
        d_a = sumix_distance(clean[i].tolist(), logits[i].tolist(), a, b)
        d_b = sumix_distance(clean[j].tolist(), logits[i].tolist(), b, a)
        lam = base.lam[i].item()
        if 0 < lam < 1:
            assert batch.lam[i].item() == pytest.approx(sumix_lam(lam, d_a, d_b, a, b, 5.0), abs=1e-5)
        total += lam * uncertainty_term(d_a, u[i], u_mixed[i], a, 5.0) / B
        total += (1 - lam) * uncertainty_term(d_b, u[j], u_mixed[i], b, 5.0) / B
    assert batch.extra["uncertainty"].item() == pytest.approx(0.5 * total, abs=1e-5)


def test_sumix_of_a_row_does_not_depend_on_the_rest_of_the_batch():
    model, (images, labels) = randomised(PlainNet(norm=False), 0.2).eval(), batch_of()
    index = torch.tensor([1, 0, 3, 2, 5, 4])
    mask = F.interpolate((torch.rand(B, 1, 4, 4) < 0.5).float(), scale_factor=8)
    mixed = torch.where(mask.bool(), images, images[index])
    mix = make("sumix")
    whole = pair_batch(Mixed(mixed, mask.mean((1, 2, 3)), mask), labels, index)
    _, batch = mix.relabel(model, whole, images)
    part = pair_batch(Mixed(mixed[:2], mask[:2].mean((1, 2, 3)), mask[:2]), labels[:2], index[:2])
    _, alone = mix.relabel(model, part, images[:2])
    torch.testing.assert_close(batch.lam[:2], alone.lam)


def test_sumix_trains_its_head_in_every_step_and_the_weights_carry_no_gradient():
    for switch in (0.0, 1.0):
        mix = make("sumix", switch=switch, kappa=1.0)
        method = Supervised(PlainNet(), mix, num_classes=5)
        loss, parts = method(batch_of())
        loss.backward()
        assert set(parts) == {"mixed", "uncertainty"}
        assert all(p.grad is not None for p in mix.head.parameters())
        assert bool(mix.head.weight.grad.any()) == (switch == 0.0)
        assert all(p.grad is not None for n, p in method.model.named_parameters() if "aside" not in n)
    _, batch = make("sumix").forward_through(PlainNet(), *batch_of())
    assert not batch.weights.requires_grad
    assert not batch.extra  # no head, no further loss


def test_sumix_says_which_classifier_it_needs():
    class NoLinear(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    with pytest.raises(ValueError, match="got NoneType"):
        make("sumix").attach(NoLinear(), 3)
    with pytest.raises(ValueError, match="got Linear of 5 outputs"):
        make("sumix").attach(PlainNet(), 3)
    with pytest.raises(ValueError, match="classifier layer 'nothing' is not in"):
        make("sumix", classifier="nothing").attach(PlainNet(), 5)
    assert make("sumix", classifier="fc").attach(PlainNet(), 5).in_features == 16
    mix = make("sumix", classifier="aside")
    mix.attach(PlainNet(), 4)
    with pytest.raises(ValueError, match="it ran 0 times"):
        mix.forward_through(PlainNet(), *batch_of())
    with pytest.raises(ValueError, match="give class ids"):
        make("sumix").forward_through(PlainNet(), batch_of()[0], torch.rand(B, 5))


# What is true of all of them ------------------------------------------------------------------------------------------

BASES = {
    "cutmix": CutMix(clip=False),
    "fmix": FMix(),
    "gridmix": GridMix(),
    "resizemix": ResizeMix(),
    "smoothmix": SmoothMix(),
    "mixup": MixUp(),
    "vanilla": NoMixup(),
    "maskmix": MaskMix(),
    "tokenmix": TokenMix(maps="area", switch=0.0, patch=8),
    "random": RandomChoice([CutMix(), FMix()]),
}


@every_kind
@pytest.mark.parametrize("base", BASES)
def test_any_mixup_of_images_can_be_wrapped(kind, base):
    images, labels = batch_of()
    mix = make(kind, mixup=BASES[base])
    batch = mix.forward_through(vit(), images, labels)[1]
    state = seeded()
    choice = BASES[base]
    if base == "random":
        ready = RandomChoice(choice.choices, generator=state)
    else:
        ready = dataclasses.replace(choice, generator=state)
    expected = ready(images, labels)
    assert torch.equal(batch.images, expected.images)
    assert batch.weights.min() >= 0
    torch.testing.assert_close(batch.weights.sum(1), torch.ones(B))
    assert mix.base == choice.name
    assert mix.inner is not choice
    alone = make(kind, mixup=BASES[base])(images, labels)
    assert torch.equal(alone.weights, expected.weights)


@every_kind
def test_options_go_to_the_named_base_and_a_ready_one_keeps_its_own(kind):
    mix = make(kind, alpha=0.3, prob=0.4, per_sample=True, pairing="roll", base="cutmix")
    assert type(mix.inner) is CutMix
    for one in (mix, mix.inner):
        assert (one.alpha, one.prob, one.per_sample, one.pairing) == (0.3, 0.4, True, "roll")
    ready = FMix(alpha=0.7, prob=0.2, decay_power=2.0)
    mix = make(kind, mixup=ready, alpha=3.0)
    assert (mix.base, mix.alpha, mix.prob, mix.pairing) == ("fmix", 0.7, 0.2, "randperm")
    assert mix.inner.decay_power == 2.0
    assert set(mix.options()) >= {"alpha", "prob", "switch", "mixup_alpha", "base"}
    assert not {"mixup", "inner", "generator", "head"} & set(mix.options())
    again = KINDS[kind](**make(kind).options())
    assert again.options() == make(kind).options()


@every_kind
def test_one_generator_serves_all_draws(kind):
    images, labels = batch_of()
    mix, other = make(kind, 0, switch=0.5), make(kind, 5, switch=0.5)
    assert mix.inner.generator is mix.generator
    first = [mix(images, labels).images for _ in range(6)]
    mix.generator.manual_seed(0)
    other.generator.manual_seed(0)  # as the engine does before each step
    state = torch.get_rng_state()
    for want in first:
        assert torch.equal(mix(images, labels).images, want)
        assert torch.equal(other(images, labels).images, want)
    assert torch.equal(torch.get_rng_state(), state)
    several = RandomChoice([mix], generator=seeded(7))
    assert several.choices[0].inner.generator is several.generator


@every_kind
def test_batches_that_are_switched_are_mixup_with_its_own_label(kind):
    model, (images, labels) = vit(), batch_of()
    mix = make(kind, switch=0.5, base="cutmix", mixup_alpha=1.0)
    soft = 0
    for _ in range(60):
        logits, batch = mix.forward_through(model, images, labels)
        blended = bool(((batch.mask > 0.01) & (batch.mask < 0.99)).any())
        soft += blended
        if blended:
            torch.testing.assert_close(batch.lam, batch.mask.mean((1, 2, 3)))
            torch.testing.assert_close(logits, model(batch.images))
    assert (6 if kind == "mixpro" else 18) < soft < (28 if kind == "mixpro" else 42)


@every_kind
def test_published_switches(kind):
    assert KINDS[kind]().switch == {"transmix": 0.2, "mixpro": 0.5, "tla": 0.0, "sumix": 0.0}[kind]
    assert KINDS[kind]().base == {"mixpro": "maskmix", "tla": "patchcutmix"}.get(kind, "cutmix")


@every_kind
def test_unmixed_rows_keep_their_label_exactly(kind):
    model, (images, labels) = vit(), batch_of()
    logits, batch = make(kind, prob=0.0, switch=0.9).forward_through(model, images, labels)
    assert torch.equal(batch.lam, torch.ones(B))
    torch.testing.assert_close(logits, model(images), atol=1e-6, rtol=0)
    _, one = make(kind).forward_through(model, images[:1], labels[:1])
    assert one.lam.item() == 1
    index = torch.tensor([1, 0, 2, 3, 5, 4])
    mix = make(kind, base="cutmix")
    mixed = mix(images, labels, index=index)
    lam = mix.relabel(model, mixed, images)[1].lam
    assert torch.equal(lam[2:4], torch.ones(2))
    whole = mix(images, labels, index=images.new_tensor([1, 2, 3, 4, 5, 0]).long(), lam=0.0)
    assert torch.equal(mix.relabel(model, whole, images)[1].lam, torch.zeros(B))


@every_kind
def test_the_gradient_of_a_row_has_its_own_lam_and_no_graph_runs_through_lam(kind):
    model, (images, labels) = vit(), batch_of()
    logits, batch = make(kind, per_sample=True).forward_through(model, images, labels)
    assert logits.requires_grad
    assert not batch.weights.requires_grad
    (gradient,) = torch.autograd.grad(batch.label_loss(logits), logits)
    for i in range(B):
        target = torch.zeros(5).index_add(0, batch.labels[i], batch.weights[i])
        torch.testing.assert_close(gradient[i], (logits[i].detach().softmax(0) - target) / B)


@every_kind
def test_float_targets_are_weighed_too(kind):
    if kind == "sumix":
        return
    model, (images, labels) = vit(), batch_of()
    _, plain = make(kind).forward_through(model, images, labels)
    _, hot = make(kind).forward_through(model, images, F.one_hot(labels, 5).float())
    torch.testing.assert_close(hot.weights, plain.weights)
    torch.testing.assert_close(hot.soft_targets(5), plain.soft_targets(5))


@every_kind
@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=str)
def test_other_shapes_and_types(kind, size):
    model, (images, labels) = vit(img_size=size), batch_of(size)
    for dtype in (torch.float32, torch.bfloat16):
        _, batch = make(kind).forward_through(model.to(dtype), images.to(dtype), labels)
        assert batch.images.dtype == dtype
        assert batch.weights.dtype == torch.float32
        assert batch.weights.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        _, batch = make(kind).forward_through(model.float(), images, labels)
    assert batch.weights.dtype == torch.float32


@pytest.mark.parametrize("kind", ATTENTIVE)
def test_networks_without_readable_attention_are_refused(kind):
    for model in (PlainNet(), tiny_cnn()):
        with pytest.raises(ValueError, match="plain ViT of timm"):
            make(kind).forward_through(model, *batch_of())


@every_kind
def test_hooks_are_removed_also_when_the_network_raises(kind):
    model, (images, labels) = vit(), batch_of()
    mix = make(kind)
    mix.attach(model, 5)
    mix.forward_through(model, images, labels)
    with pytest.raises(AssertionError):
        mix.forward_through(model, torch.randn(B, 3, 40, 40), labels)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0


class Silent(Augmentation):
    """A mixup that gives what the test wants."""

    name = "silent"
    given = None

    def __call__(self, images, labels, **_):
        return self.given


@every_kind
def test_what_cannot_be_relabelled_is_refused(kind):
    for bad in (ManifoldMix(), AlignMix(), TransMix(), RandomChoice([CutMix(), ManifoldMix()])):
        with pytest.raises(ValueError, match="inside or after the forward pass"):
            make(kind, mixup=bad)
    with pytest.raises(ValueError, match=r"unknown base 'nothing'; choose one of .*cutmix"):
        make(kind, base="nothing")
    for name in ("deit", "rsb", "sumix"):
        with pytest.raises(ValueError, match=rf"unknown base '{name}'.*; choose one of .*cutmix"):
            make(kind, base=name)
    images, labels = batch_of()
    base = CutMix(generator=seeded())(images, labels)
    for changes in ({"mask": None}, {"target": torch.rand(B, 5)}, {"labels": torch.zeros(B, 3).long()}):
        mix = make(kind, mixup=Silent())
        mix.inner.given = dataclasses.replace(base, **changes)
        with pytest.raises(ValueError, match="changes the weights of two labels"):
            mix.forward_through(vit(), images, labels)
    with pytest.raises(ValueError, match="labels must have shape"):
        make(kind).forward_through(vit(), images, torch.zeros(B, 32, 32).long())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: TransMix(ratio=1.5),
        lambda: MixPro(smoothing=1.0),
        lambda: SUMix(kappa=-1.0),
        lambda: SUMix(gamma=float("inf")),
        lambda: TransMix(switch=-0.1),
        lambda: TokenLabelAlign(patch=0),
        lambda: TransMix(alpha=float("nan")),
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        wrong()


class Remembers(CutMix):
    """A mixup with a memory, a norm and a head."""

    name = "remembers"
    seen = 0
    norm = None

    def attach(self, model, num_classes):
        return nn.Linear(1, num_classes)

    def set_normalization(self, mean, std):
        self.norm = (mean, std)

    def reset(self):
        self.seen = 0

    def state_dict(self):
        return {"seen": torch.tensor(self.seen)}

    def load_state_dict(self, state):
        self.seen = int(state["seen"])


@every_kind
def test_what_the_wrapped_mixup_has_is_handed_on(kind):
    mix = make(kind, mixup=Remembers())
    mix.inner.seen = 3
    assert mix.state_dict() == {"0.seen": torch.tensor(3)}
    mix.reset()
    assert mix.inner.seen == 0
    mix.load_state_dict({"0.seen": torch.tensor(5)})
    assert mix.inner.seen == 5
    mix.set_normalization((0.5,), (0.2,))
    assert mix.inner.norm == ((0.5,), (0.2,))
    with pytest.raises(ValueError, match="Remembers trains a head by a further loss"):
        mix.attach(vit(), 5)
    assert (make(kind).attach(vit(), 5) is None) == (kind != "sumix")
    images, _labels = batch_of()
    given = make(kind, mixup=CutMix())
    mixed, index = given.mix(images, lam=0.4, index=torch.arange(B).roll(1))
    assert torch.equal(index, torch.arange(B).roll(1))
    assert torch.equal(mixed.images, CutMix(generator=seeded()).mix(images, 0.4, index)[0].images)


def test_in_a_loop_it_learns_and_the_loss_is_finite():
    images, labels = torch.randn(20, 3, 32, 32), torch.arange(20) % 2
    images += labels.view(-1, 1, 1, 1) * 2.0
    for kind in KINDS:
        torch.manual_seed(1)
        method = Supervised(tiny_vit(2, depth=2), make(kind, alpha=1.0), num_classes=2)
        optimizer = torch.optim.AdamW(method.parameter_groups(1e-3))
        for _ in range(12):
            loss, _parts = method((images, labels))
            assert loss.isfinite()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert (method.model.eval()(images).argmax(1) == labels).float().mean() > 0.9, kind


def test_sumix_refuses_labels_that_the_network_has_no_class_for():
    model = tiny_cnn(5)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\], got values from 1 to 7"):
        SUMix().forward_through(model, torch.randn(2, 3, 32, 32), torch.tensor([1, 7]))
