"""Cheaper steps of AutoMix and SAMix: each option changes what it says, and nothing else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from runs import new_run, rows, small_recipe
from test_automix import PARTS, build, close, force, gradients, state
from tiny_networks import tiny_cnn
from torch.utils._python_dispatch import TorchDispatchMode

import samix
from samix.batch import Mixed, pair_batch
from samix.losses.supervised import mask_mean_loss, mask_variance, mixed_cross_entropy
from samix.methods.automix import AutoMix
from samix.methods.base import Method
from samix.methods.samix import SAMix
from samix.methods.supervised import Supervised
from samix.mixers.base import margin_mask
from samix.mixups.base import blend
from samix.networks.early_backward import gradients_now

LAM = torch.tensor([0.3, 0.45, 0.6, 0.75, 0.2, 0.5])
DRAWS = (LAM, torch.tensor([3, 0, 5, 1, 4, 2])), (1 - LAM, torch.tensor([5, 4, 0, 2, 1, 3]))
KINDS = {"samix": SAMix, "automix": AutoMix}


def by_hand(method, batch, clean, mixed, judged):
    """The losses of these rows, computed on the whole and cut, for a Mixer whose masks do not depend on the batch."""
    (images, labels), o, draws = batch, method.options, DRAWS
    parts = {"clean": F.cross_entropy(method.model.clean(images[clean]), labels[clean])}
    with torch.no_grad():
        z = method.mixer.project(method.ema_model.feature_map(images))
    lam, index = draws[0]
    mask = margin_mask(method.mixer.predict_mask(z, z[index], lam, images.shape[2:]), lam, o.lam_margin).detach()
    whole = pair_batch(Mixed(blend(images, images[index], mask), lam, mask), labels, index)
    logits = method.model.mixed(whole.images[mixed])
    parts["mixed"] = mixed_cross_entropy(logits, labels[mixed], labels[index][mixed], lam[mixed])
    lam, index = draws[1]
    mask = method.mixer.predict_mask(z, z[index], lam, images.shape[2:])[judged]
    logits = method.teacher_logits(blend(images[judged], images[index][judged], mask))
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
}


@pytest.mark.parametrize("early_backward", [False, True])
@pytest.mark.parametrize(("options", "rows_"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("cls", KINDS.values(), ids=KINDS)
def test_a_step_on_parts_equals_those_parts_of_the_whole(cls, options, rows_, early_backward):
    norm = {"norm": "layer"} if cls is SAMix else {}
    method, batch = build("vit", cls, early_backward=early_backward, **norm, **options)
    force(method, *DRAWS)
    expected = by_hand(method, batch, **{**ALL, **rows_})
    _, parts = method(batch)
    for name in PARTS:
        assert float(parts[name]) == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("cls", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("options", [{}, {"generator_share": 0.5, "clean_share": 0.5}])
def test_using_graphs_early_changes_no_gradient_and_no_statistic(cls, options):
    results = []
    for early_backward in (False, True):
        method, batch = build(cls=cls, early_backward=early_backward, **options)
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


def test_gradients_taken_early_are_handed_on_without_a_copy_and_once():
    weight = torch.nn.Parameter(torch.randn(3))
    taken = []
    grad = torch.autograd.grad

    def noting(*args, **options):
        found = grad(*args, **options)
        taken.append(found[0].data_ptr())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", noting)
        loss = gradients_now((weight**2).sum(), [weight])
    loss.backward(retain_graph=True)
    assert weight.grad.data_ptr() == taken[0]
    with pytest.raises(RuntimeError, match="early_backward=False"):
        loss.backward()


def test_a_graph_used_early_is_gone():
    weight = torch.nn.Parameter(torch.randn(4, 4))
    product = weight @ weight
    loss = gradients_now((product**2).sum(), [weight])
    with pytest.raises(RuntimeError, match="second time"):
        (product**2).sum().backward()
    loss.backward()
    assert weight.grad is not None


@pytest.mark.parametrize("cls", KINDS.values(), ids=KINDS)
def test_the_mixer_is_trained_in_every_nth_step_only(cls):
    """In the others its gradients are there, as several processes need them, and zero."""
    method, batch = build(cls=cls, generator_every=3)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.05))
    for step in range(7):
        weights = {name: p.detach().clone() for name, p in method.mixer.named_parameters()}
        loss, parts = method(batch)
        loss.backward()
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
        moved = any(not torch.equal(p, weights[name]) for name, p in method.mixer.named_parameters())
        assert moved == (step % 3 == 0)
        assert ("generation" in parts) == ("mask_std" in parts) == moved
        method.after_step(step / 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean_share": 0.0}, "clean_share must be in"),
        ({"mixed_share": 1.5}, "mixed_share must be in"),
        ({"generator_share": float("nan")}, "generator_share must be in"),
        ({"generator_every": 0}, "generator_every must be a whole number in"),
        ({"bn_statistics": "none"}, "bn_statistics must be one of clean, both"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_runs_log_holds_the_mean_over_the_steps_that_train_the_mixer(tmp_path):
    seen = []

    def run(options):
        recipe = small_recipe("samix", epochs=1, mixup_options={"ema_decay": 0.9, **options})
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
    "options", [{}, {"adjust_prob": 0.5, "per_sample": True}, {"early_backward": True, "generator_share": 0.5}]
)
def test_a_step_never_waits_for_the_device(monkeypatch, cls, options):
    for looks in ("samix.batch.check_range", "samix.batch.checks.check_range", "samix.networks.early_backward.is_one"):
        monkeypatch.setattr(looks, lambda *_: None)  # on the CPU only, where it costs nothing
    method, batch = build(cls=cls, **options)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.05), momentum=0.9)
    # Drawing on the host is no wait: lam, pairs and coins come from a CPU generator and are copied over.
    draw, cpu = method.draw, torch.device("cpu")
    draws, coins = [draw(6, cpu) for _ in range(2)], method.bernoulli(0.5, cpu)
    method.draw, method.bernoulli = (lambda *_: draws.pop()), (lambda *_: coins)
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
    z = method.mixer.project(method.feature_map(images)).detach()
    frames = []

    def backend(graph, _inputs):
        frames.append(graph)
        return graph.forward

    def mixes(z, images, lam, index):
        mask = method.mixer.predict_mask(z, z[index], lam, (images.shape[2], images.shape[3]))
        return blend(images, images[index], margin_mask(mask, lam, 0.08))

    torch._dynamo.reset()
    compiled = torch.compile(mixes, backend=backend, fullgraph=True)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        lam, index = torch.rand(6, generator=generator), torch.randperm(6, generator=generator)
        assert torch.allclose(compiled(z, images, lam, index), mixes(z, images, lam, index), atol=1e-6)
    assert len(frames) == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
@pytest.mark.parametrize(("cls", "kind"), [(SAMix, "cnn"), (AutoMix, "vit")])
def test_compiled_passes_have_no_graph_break_and_the_same_numbers(cls, kind):
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        method, batch = build(kind, cls)
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
        assert set(method.export().state_dict()) == set(method.model.backbone.model.state_dict())
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
