"""Cheaper steps of AutoMix and SAMix: each option changes what it says, and nothing else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from runs import new_run, rows, small_recipe
from test_automix import PARTS, build, changed, close, force, gradients, state, tracked
from tiny_networks import PlainNet, tiny_cnn, tiny_vit
from torch.utils._python_dispatch import TorchDispatchMode

import samix
from samix.batch import Mixed, pair_batch
from samix.losses.supervised import mask_mean_loss, mask_variance, mixed_cross_entropy
from samix.methods.automix import AutoMix
from samix.methods.base import Method
from samix.methods.branch import scaled
from samix.methods.samix import SAMix
from samix.methods.supervised import Supervised
from samix.mixers.learned import margin_mask
from samix.mixups.base import blend
from samix.networks.backbone import as_backbone
from samix.networks.early_backward import gradients_now
from samix.train.checkpoint import load_checkpoint, load_into

LAM = torch.tensor([0.3, 0.45, 0.6, 0.75, 0.2, 0.5])
DRAWS = (LAM, torch.tensor([3, 0, 5, 1, 4, 2])), (1 - LAM, torch.tensor([5, 4, 0, 2, 1, 3]))
KINDS = {"samix": SAMix, "automix": AutoMix}


def by_hand(method, batch, clean, mixed, judged, shrink=1.0, guide=1.0):
    """The losses of these rows, computed on the whole and cut, for a Mixer whose masks do not depend on the batch."""
    (images, labels), o, draws = batch, method.options, DRAWS
    parts = {"clean": F.cross_entropy(method.online.clean(images[clean]), labels[clean])}
    with torch.no_grad():
        z = method.mixer.project(method.momentum.feature_map(scaled(images, guide)))
    lam, index = draws[0]
    mask = margin_mask(method.mixer.paint(z, z[index], lam, images.shape[2:]), lam, o.lam_margin).detach()
    whole = pair_batch(Mixed(blend(images, images[index], mask), lam, mask), labels, index)
    logits = method.online.mixed(whole.images[mixed])
    parts["mixed"] = mixed_cross_entropy(logits, labels[mixed], labels[index][mixed], lam[mixed])
    lam, index = draws[1]
    small = scaled(images, shrink)
    mask = method.mixer.paint(z, z[index], lam, small.shape[2:])[judged]
    logits = method.judge(blend(small[judged], small[index][judged], mask))
    parts["generation"] = mixed_cross_entropy(logits, labels[judged], labels[index][judged], lam[judged])
    parts["mask"] = mask_mean_loss(mask, lam[judged], o.mask_margin, over_batch=o.mask_over_batch)
    parts["mask"] -= o.mask_variance * mask_variance(mask, over_batch=o.mask_over_batch)
    return {name: float(part.detach()) for name, part in parts.items()}


ALL = {"clean": slice(0, 6), "mixed": slice(0, 6), "judged": slice(0, 6)}
CASES = {
    "whole": ({}, {}),
    "clean part": ({"clean_share": 0.5}, {"clean": slice(0, 3)}),
    "mixed part": ({"mixed_share": 0.5}, {"mixed": slice(3, 6)}),
    "judged part": ({"generator_share": 0.34}, {"judged": slice(0, 2)}),
    "each image once": (
        {"clean_share": 0.67, "mixed_share": 0.33, "generator_share": 0.01},
        {"clean": slice(0, 4), "mixed": slice(4, 6), "judged": slice(0, 1)},
    ),
    "small judged images": ({"generator_scale": 0.5}, {"shrink": 0.5}),
    "small guides": ({"guide_scale": 0.5}, {"guide": 0.5}),
}


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(("options", "rows_"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("cls", KINDS.values(), ids=KINDS)
def test_a_step_on_parts_equals_those_parts_of_the_whole(cls, options, rows_, sequential):
    norm = {"norm": "layer"} if cls is SAMix else {}
    method, batch = build(
        "vit" if "scale" not in str(options) else "cnn", cls, sequential=sequential, **norm, **options
    )
    force(method, *DRAWS)
    expected = by_hand(method, batch, **{**ALL, **rows_})
    _, parts = method(batch)
    for name in PARTS:
        assert float(parts[name]) == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("cls", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("options", [{}, {"generator_share": 0.5, "clean_share": 0.5}, {"guide": "online"}])
def test_using_graphs_early_changes_no_gradient_and_no_statistic(cls, options):
    results = []
    for sequential in (False, True):
        method, batch = build(cls=cls, sequential=sequential, **options)
        force(method, *DRAWS)
        loss, parts = method(batch)
        loss.backward()
        results.append((loss.item(), parts, gradients(method), state(method)))
    (one, parts, grads, kept), (two, other_parts, other_grads, other_kept) = results
    assert one == two
    assert close(parts, other_parts, rtol=0, atol=0)
    assert close(grads, other_grads, rtol=1e-5, atol=1e-7)
    assert close(kept, other_kept, rtol=0, atol=0)


def test_gradients_taken_early_add_up_and_scale_as_others_do():
    weight, unused = torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.nn.Parameter(torch.ones(3))
    for scale in (1.0, 0.25):
        weight.grad = None
        loss = gradients_now((weight**2).sum(), [weight, unused])
        assert loss.item() == 5.0
        (scale * (loss + gradients_now((3.0 * weight).sum(), [weight]))).backward()
        assert torch.equal(weight.grad, scale * (2.0 * weight + 3.0))
    assert unused.grad is None
    constant = torch.tensor(1.0)
    assert gradients_now(constant, [weight]) is constant


def test_a_graph_used_early_is_gone():
    weight = torch.nn.Parameter(torch.randn(4, 4))
    product = weight @ weight
    loss = gradients_now((product**2).sum(), [weight])
    with pytest.raises(RuntimeError, match="second time"):
        (product**2).sum().backward()
    loss.backward()
    assert weight.grad is not None


@pytest.mark.parametrize("kind", ["cnn", "vit", "hooked"])
def test_one_pass_gives_both_the_logits_and_the_map(kind):
    make, feature, side = {"cnn": (tiny_cnn, None, 64), "vit": (tiny_vit, None, 32), "hooked": (PlainNet, "body", 28)}[
        kind
    ]
    backbone = as_backbone(make().eval(), 5, feature)
    images = torch.randn(2, 3, side, side)
    pooled, z = backbone.pooled_and_map(images)
    assert torch.allclose(pooled, backbone.pooled(images), atol=1e-6)
    assert torch.equal(z, backbone.feature_map(images))


def test_the_online_guide_is_the_clean_pass_and_its_loss_the_same():
    method, batch = build(guide="online")
    seen, paint = [], method.mixer.project
    method.mixer.project = lambda z: seen.append(z) or paint(z)
    force(method, *DRAWS)
    reference = copy.deepcopy(method.online)
    expected = F.cross_entropy(reference.clean(batch[0]), batch[1]).item()
    _, parts = method(batch)
    assert float(parts["clean"]) == pytest.approx(expected, abs=1e-6)
    reference = copy.deepcopy(method.online)
    assert torch.allclose(seen[0], reference.feature_map(batch[0]), atol=1e-6)
    assert not seen[0].requires_grad


def test_with_the_online_guide_the_copys_statistics_come_from_one_step_in_four():
    method, batch = build(guide="online")
    for step in range(8):
        before = tracked(method, "layer1.0.bn2"), tracked(method, "layer4.0.bn2")
        method(batch)
        now = tracked(method, "layer1.0.bn2"), tracked(method, "layer4.0.bn2")
        assert [b - a for a, b in zip(before, now, strict=True)] == ([1, 1] if step % 4 == 0 else [0, 0])
        method.after_step(0.1)


@pytest.mark.parametrize("scales", [{"guide_scale": 0.5}, {"generator_scale": 0.5}])
def test_shrunk_images_leave_no_statistics(scales):
    method, (images, labels) = build(**scales)
    for step in range(5):
        reference = copy.deepcopy(method.momentum)
        method((images, labels))
        if step % 4 == 0 or "generator_scale" in scales:
            reference.feature_map(images, whole=step % 4 == 0)
        assert not changed(method.momentum, reference.state_dict())
        method.step += 1


@pytest.mark.parametrize("cls", KINDS.values(), ids=KINDS)
def test_the_mixer_is_trained_in_every_nth_step_only(cls):
    method, batch = build(cls=cls, generator_every=3)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.05), momentum=0.9, weight_decay=0.1)
    for step in range(7):
        weights = {name: p.detach().clone() for name, p in method.mixer.named_parameters()}
        loss, parts = method(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        moved = any(not torch.equal(p, weights[name]) for name, p in method.mixer.named_parameters())
        assert moved == (step % 3 == 0)
        assert ("generation" in parts) == ("mask_std" in parts) == moved
        method.after_step(step / 7)
    assert method.may_leave_out
    assert not build(cls=cls)[0].may_leave_out


def test_after_its_share_of_the_run_the_mixer_rests():
    method, batch = build(generator_until=0.5)
    for progress, trained in ((0.0, True), (0.49, True), (0.5, False), (0.9, False)):
        method.progress = progress
        method.zero_grad()
        method(batch)[0].backward()
        assert all((p.grad is not None) == trained for p in method.mixer.parameters())
        assert any(p.grad is not None for p in method.online.parameters())


def test_averaged_statistics_are_of_clean_images_and_follow_the_network():
    method, (images, labels) = build(statistics="averaged", momentum=0.5, momentum_hold=1.0)
    reference, slow = copy.deepcopy(method.online), copy.deepcopy(method.momentum)
    method((images, labels))
    assert not changed(method.momentum, slow.state_dict())
    reference.clean(images)  # the only pass that the network's norms remember
    own = {name: value for name, value in reference.named_buffers() if value.is_floating_point()}
    assert all(torch.allclose(dict(method.online.named_buffers())[name], value) for name, value in own.items())
    for step in range(3):
        before = {name: value.clone() for name, value in method.momentum.named_buffers()}
        method.after_step(0.1)
        rate = min(0.5, (step + 1) / (step + 10))
        for name, value in method.momentum.named_buffers():
            now = dict(method.online.named_buffers())[name]
            expected = rate * before[name] + (1 - rate) * now if value.is_floating_point() else now
            assert torch.allclose(value, expected), name
    assert not any(module.training for module in method.momentum.modules())
    assert method.online.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean_share": 0.0}, "clean_share must be in"),
        ({"mixed_share": 1.5}, "mixed_share must be in"),
        ({"generator_share": float("nan")}, "generator_share must be in"),
        ({"generator_until": -1.0}, "generator_until must be in"),
        ({"guide_scale": 2.0}, "guide_scale must be in"),
        ({"generator_every": 0}, "generator_every must be at least 1"),
        ({"guide": "slow"}, "guide must be one of momentum, online"),
        ({"guide": "online", "clean_share": 0.5}, "clean pass of the whole batch"),
        ({"statistics": "none"}, "statistics must be one of clean, both, averaged"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_runs_log_holds_the_mean_over_the_steps_that_train_the_mixer(tmp_path):
    seen = []

    def run(options):
        recipe = small_recipe("samix", epochs=1, mixup_options={"momentum": 0.9, **options})
        run = new_run(recipe, tmp_path, f"run{len(seen)}")
        forward = run.method.forward
        run.method.forward = lambda batch: seen.append(forward(batch)) or seen[-1]
        run.fit()
        return rows(run.folder)[-1]

    row = run({"generator_every": 2})
    values = [parts["generation"].item() for _, parts in seen if "generation" in parts]
    assert len(values) == 3  # of five steps
    assert row["generation"] == pytest.approx(sum(values) / 3, rel=1e-5)
    assert row["clean"] == pytest.approx(sum(parts["clean"].item() for _, parts in seen) / 5, rel=1e-5)


def test_a_checkpoint_from_before_steps_were_counted_loads(tmp_path):
    run = new_run(small_recipe("samix", epochs=1), tmp_path)
    run.fit()
    state_ = load_checkpoint(run.folder / "last.pt")["method"]
    assert int(state_.pop("steps")) == 5
    method = new_run(small_recipe("samix", epochs=1), tmp_path, "other").method
    load_into(method, state_, run.folder / "last.pt")
    assert method.step == 0
    assert all(torch.equal(method.state_dict()[name], value) for name, value in state_.items())


class HostReads(TorchDispatchMode):
    """Counts what would make a step wait for the device: a number read from a tensor, or a shape that values decide."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "item", "unique", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.WAITING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cls", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"adjust_prob": 0.5, "per_sample": True}, {"sequential": True, "generator_share": 0.5}]
)
def test_a_step_never_waits_for_the_device(monkeypatch, cls, options):
    monkeypatch.setattr("samix.batch.check_range", lambda *_: None)  # on the CPU only, where it costs nothing
    method, batch = build(cls=cls, **options)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.05), momentum=0.9)
    # Drawing on the host is no wait: lam, pairs and coins come from a CPU generator and are copied over.
    draw, flip = method.draw, method.flip
    draws, coins = [draw(6, torch.device("cpu")) for _ in range(2)], flip(0.5, batch[0])
    method.draw, method.flip = (lambda *_: draws.pop()), (lambda *_: coins)
    with HostReads() as reads:
        loss, _ = method(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.5)
    assert reads.found == []


def test_the_count_of_waits_sees_a_wait():
    with HostReads() as reads:
        torch.ones(1).item()
    assert reads.found == ["_local_scalar_dense"]


@pytest.mark.parametrize("cls", KINDS.values(), ids=KINDS)
def test_masks_and_mixes_compile_once_for_every_lam_and_pairing(cls):
    method, (images, _) = build(cls=cls)
    z = method.mixer.project(method.guide(images)).detach()
    frames = []

    def backend(graph, _inputs):
        frames.append(graph)
        return graph.forward

    def mixes(z, images, lam, index):
        mask = method.mixer.paint(z, z[index], lam, (images.shape[2], images.shape[3]))
        return blend(images, images[index], margin_mask(mask, lam, 0.08))

    torch._dynamo.reset()
    compiled = torch.compile(mixes, backend=backend, fullgraph=True)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        lam, index = torch.rand(6, generator=generator), torch.randperm(6, generator=generator)
        assert torch.allclose(compiled(z, images, lam, index), mixes(z, images, lam, index), atol=1e-6)
    assert len(frames) == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("cls", KINDS.values(), ids=KINDS)
def test_compiled_passes_have_no_graph_break_and_the_same_numbers(cls, kind):
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        method, batch = build(kind, cls, guide="online" if kind == "vit" else "momentum")
        names = set(method.state_dict())
        if compiled:
            method.compile_parts(backend="aot_eager", fullgraph=True)
        losses = []
        for step in range(5):
            loss, _ = method(batch)
            loss.backward()
            losses.append(loss.item())
            method.after_step(step / 5)
        assert set(method.state_dict()) == names
        assert set(method.export().state_dict()) == set(method.online.backbone.model.state_dict())
        results.append((losses, gradients(method)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    assert close(results[0][1], results[1][1], rtol=1e-2, atol=1e-4)


def test_a_compiled_plain_step_has_the_same_numbers():
    torch._dynamo.reset()
    model, mix = tiny_cnn(), samix.CutMix(generator=torch.Generator().manual_seed(3))
    losses = []
    for compiled in (False, True):
        method = Supervised(copy.deepcopy(model), mix, num_classes=5)
        mix.generator.manual_seed(3)
        if compiled:
            method.compile_parts(backend="aot_eager", fullgraph=True)
        losses.append(method((torch.ones(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])))[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_reads_a_network_by_hooks_is_not_compiled():
    with pytest.raises(ValueError, match="PlainNet is read by hooks"):
        build("plain")[0].compile_parts()
    for mix in (samix.ManifoldMix(), samix.PuzzleMix()):
        with pytest.raises(ValueError, match="looks into the network"):
            Supervised(tiny_cnn(), mix, num_classes=5).compile_parts()
    with pytest.raises(ValueError, match="cannot be compiled"):
        Method().compile_parts()


@pytest.mark.parametrize("name", ["guide_scale", "generator_scale"])
def test_a_network_of_one_size_takes_no_shrunk_images(name):
    with pytest.raises(ValueError, match=f"{name} must be 1, got 0.5: this network takes images of one size only"):
        build("vit", **{name: 0.5})
    vit = tiny_vit(img_size=(32, 48), dynamic_img_size=True)
    method = SAMix(vit, 5, samix.SAMixOptions(**{name: 0.5}))
    loss, _ = method((torch.randn(4, 3, 32, 48), torch.tensor([0, 1, 2, 3])))
    assert loss.isfinite()
