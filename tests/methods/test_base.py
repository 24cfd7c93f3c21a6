"""What every method promises a loop: declared parts, two ways to call it, and a word where a loop forgets a step."""

import copy
import warnings

import pytest
import torch
from tiny_networks import tiny_cnn

import samix
from samix.methods.adautomix import AdAutoMix
from samix.methods.automix import AutoMix
from samix.methods.averaged import Averaged
from samix.methods.samix import SAMix
from samix.methods.supervised import Supervised

LEARNED = [AutoMix, SAMix, AdAutoMix]


def batch(size=6):
    torch.manual_seed(0)
    return torch.randn(size, 3, 32, 32), torch.randint(0, 5, (size,))


def build(cls, **options):
    torch.manual_seed(1)
    if issubclass(cls, Supervised):
        return cls(tiny_cnn(), samix.CutMix(generator=torch.Generator().manual_seed(2)), num_classes=5)
    options = type(cls.presets["reference"])(**options)
    return cls(tiny_cnn(), 5, options, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("cls", [*LEARNED, Supervised, Averaged])
def test_images_and_labels_may_be_given_apart_or_as_one_batch(cls):
    images, labels = batch()
    assert torch.equal(build(cls)(images, labels)[0], build(cls)((images, labels))[0])
    assert torch.equal(build(cls)(images, labels)[0], build(cls)([images, labels])[0])


@pytest.mark.parametrize(
    ("cls", "options"),
    [(AutoMix, {}), (SAMix, {"generator_every": 2}), (AdAutoMix, {}), (AdAutoMix, {"samples": 2}), (Supervised, {})],
)
def test_every_part_of_a_loss_is_declared_and_together_they_are_all_that_is_declared(cls, options):
    method, seen = build(cls, **options), set()
    for step in range(4):
        parts = method(batch())[1]
        assert set(parts) <= set(method.loss_parts)
        seen |= set(parts)
        method.after_step(step / 4)
    optional = {"linear"} if options.get("samples") == 2 else set()
    assert seen == set(method.loss_parts) - optional
    assert len(set(method.loss_parts)) == len(method.loss_parts)


def step(method, optimizer, follow=True):
    method(batch())[0].backward()
    optimizer.step()
    optimizer.zero_grad()
    if follow:
        method.after_step(0.5)


@pytest.mark.parametrize("cls", [*LEARNED, Averaged])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_a_loop_without_after_step_is_told_once_and_its_export_is_refused(cls, make):
    method = build(cls)
    optimizer = make(method.parameter_groups(lr=0.01))
    step(method, optimizer, follow=False)
    with pytest.warns(UserWarning, match=r"after_step was not called.*call method.after_step"):
        step(method, optimizer, follow=False)
    step(method, optimizer, follow=False)  # not told again: warnings are errors here
    with pytest.raises(ValueError, match=r"averaged copy, which is exported, never moved: call method.after_step"):
        method.export()


@pytest.mark.parametrize("cls", [*LEARNED, Supervised, Averaged])
def test_a_loop_with_after_step_or_accumulation_or_a_loaded_state_hears_nothing(cls):
    method = build(cls)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.01))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method(batch())[0].backward()  # accumulated
        for _ in range(2):
            step(method, optimizer)
        method.load_state_dict(build(cls).state_dict())
        step(method, optimizer)
    method.export()


@pytest.mark.parametrize("cls", LEARNED)
def test_a_loop_that_does_not_train_the_mixer_is_told_once(cls):
    method = build(cls)
    optimizer = torch.optim.SGD(method.model.parameters(), lr=0.01)
    with pytest.warns(UserWarning, match=r"changes the network but not the Mixer: give it method.parameter_groups"):
        step(method, optimizer)
    step(method, optimizer)  # not told again: warnings are errors here


@pytest.mark.parametrize("cls", LEARNED)
def test_a_run_goes_on_exactly_from_its_state_and_its_generators(cls):
    losses, method = [], build(cls)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.01))
    for number in range(4):
        if number == 2:
            state = copy.deepcopy((method.state_dict(), [g.get_state() for g in method.generators()]))
        losses.append(float(method(batch())[0].detach()))
        step(method, optimizer)
    again = build(cls)
    again.load_state_dict(state[0])
    for generator, draws in zip(again.generators(), state[1], strict=True):
        generator.set_state(draws)
    assert (again.step, again.progress) == (2, 0.5)
    optimizer = torch.optim.SGD(again.parameter_groups(lr=0.01))
    for number in (2, 3):
        assert float(again(batch())[0].detach()) == losses[number]
        step(again, optimizer)


def test_a_fresh_method_may_be_exported():
    images, _ = batch()
    method = build(SAMix).eval()
    assert torch.equal(method.export()(images), method.predict(images)["ema"])


def left_in_eval(method):
    method.eval()


def network_left_in_eval(method):  # as where a loop evaluates the network that it gave
    method.model.eval()


@pytest.mark.parametrize("cls", [*LEARNED, Supervised, Averaged])
@pytest.mark.parametrize("leave", [left_in_eval, network_left_in_eval])
def test_a_loop_that_trains_in_eval_mode_is_told_once(cls, leave):
    method = build(cls)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.01))
    for _ in range(2):
        step(method, optimizer)
    leave(method)
    with pytest.warns(UserWarning, match=r"model of \w+ is trained in eval mode: .* call method.train\(\)"):
        step(method, optimizer)
    step(method, optimizer)  # not told again: warnings are errors here


EARLY = {"early_backward": True}


@pytest.mark.parametrize(
    ("cls", "options"),
    [(AutoMix, {}), (AutoMix, EARLY), (SAMix, EARLY), (AdAutoMix, {}), (Supervised, {}), (Averaged, {})],
)
def test_a_loop_that_forgets_to_set_gradients_to_zero_is_told_once(cls, options):
    method = build(cls, **options)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.01))
    told = []
    for number in range(5):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            method(batch())[0].backward()
            optimizer.step()
            method.after_step(number / 5)
        told += [(number, str(warning.message)) for warning in caught]
    first = 2 if cls is Supervised else 1  # nothing is noted of a method without an average before its first after_step
    assert told == [(first, "gradients of earlier steps are added up: call optimizer.zero_grad() after each step")]


ZERO = {"after": True, "before": False}


@pytest.mark.parametrize("cls", [*LEARNED, Supervised, Averaged])
@pytest.mark.parametrize("zero", ZERO)
@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_are_accumulated_and_set_to_zero_are_as_they_should_be(cls, zero, to_none):
    method = build(cls)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.01))
    for number in range(3):
        for part in range(2):
            loss = method(batch())[0]
            if part == 0 and not ZERO[zero]:
                optimizer.zero_grad(set_to_none=to_none)
            loss.backward()
        optimizer.step()
        if ZERO[zero]:
            optimizer.zero_grad(set_to_none=to_none)
        method.after_step(number / 3)


def test_a_network_whose_norms_are_frozen_or_whose_trunk_is_may_be_in_eval_mode():
    method = build(Supervised)
    for module in method.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.01))
    for _ in range(3):
        step(method, optimizer)
    for name, module in method.model.named_children():
        if name != "fc":
            module.eval().requires_grad_(False)
    optimizer = torch.optim.SGD(method.parameter_groups(lr=0.01))
    for _ in range(3):
        step(method, optimizer)
