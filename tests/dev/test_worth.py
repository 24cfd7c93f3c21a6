"""The tables of what learning the mix is worth, and the forms of a frozen Mixer that are measured there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import worth_methods
import worth_report
import worth_tables
from worth_settings import DERIVED, README_ROWS, ROWS, SETTINGS, TITLES, Form, Row

import samix


def results(**top1: list[float]) -> worth_tables.Results:
    """Rows of methods (with _ for -) with these accuracies by seed."""
    rows = [
        {"method": method.replace("_", "-"), "seed": str(seed), "top1": str(value), "counted_cost": "1", "machine": "a"}
        for method, values in top1.items()
        for seed, value in enumerate(values)
    ]
    return worth_tables.Results("S", rows)


def test_a_claim_needs_an_interval_without_zero():
    sure = results(vanilla=[40.0, 41.0, 42.0], samix_constant=[45.0, 45.5, 47.0], samix=[45.1, 45.3, 47.2])
    assert worth_tables.claims(sure) == [
        "samix is above vanilla by 4.87 points (3.64 to 6.09, 3 seeds).",
        "samix-constant is above vanilla by 4.83 points (4.12 to 5.55, 3 seeds).",
    ]
    assert worth_tables.claims(results(vanilla=[40.0], samix=[50.0])) == []  # one seed has no interval


def test_the_verdict_names_the_control_and_the_best_handmade_mixup():
    found = worth_tables.verdicts(
        results(samix=[50.0, 50.1], samix_constant=[45.0, 45.2], mixup=[50.0, 50.2], cutmix=[40.0, 40.0])
    )
    assert len(found) == 2
    assert found[0].startswith("SAMix against SAMix, masks held at lambda (control): it is better (+4.95 points")
    assert found[1].startswith("SAMix against MixUp: no difference is shown (-0.05 points")


def test_all_pairs_of_masks_and_their_control_are_put_together():
    one = results(samix=[50.0, 51.0], samix_constant=[50.5, 51.0], samix_once=[46.0], samix_once_constant=[46.0])
    other = results(samix=[60.0], samix_constant=[60.5], automix=[99.0])
    found = worth_tables.pooled({"S": one, "F": other})
    assert (found.n, found.mean) == (4, -0.25)
    assert worth_tables.pooled_sentence({"S": one, "F": other}) == (
        "all 4 pairs of a learned mixup and its control together: learned masks make no difference that is shown "
        "(-0.25 points, -0.71 to +0.21); a gain of one point is outside the interval."
    )
    assert worth_tables.pooled_sentence({"F": other}) == ""


def test_the_goal_needs_both_differences_in_two_settings():
    good = results(samix=[50.0, 51.0], samix_constant=[48.0, 49.1], mixup=[47.0, 48.0])
    level = results(samix=[50.0, 51.0], samix_constant=[50.0, 50.9], mixup=[47.0, 48.0])
    assert worth_tables.goal_sentence({"S": good, "F": good}).startswith("SAMix is a point or more above both")
    assert worth_tables.goal_sentence({"S": good, "F": level}).startswith("no learned mixup is a point")


def test_another_classifier_of_the_same_runs_is_a_row_of_its_own():
    row = {"method": "mixup-clean-ema", "seed": "0", "machine": "a", "top1": "40", "top1_online_clean": "45"}
    found = worth_tables.Results("S", [{**row, "nll_online_clean": "1.5", "ece": "3", "counted_cost": "2"}])
    assert found.values("mixup-clean", "top1") == {0: 45.0}
    assert found.values("mixup-clean", "nll") == {0: 1.5}
    assert found.values("mixup-clean", "ece") == {}
    assert found.values("mixup-clean-ema", "top1") == {0: 40.0}


def test_rows_are_paired_within_a_machine():
    runs = [("vanilla", 0, "a", 40.0), ("vanilla", 0, "b", 30.0), ("samix", 0, "b", 33.0), ("samix", 1, "a", 50.0)]
    rows = [{"method": m, "seed": str(s), "machine": where, "top1": str(v)} for m, s, where, v in runs]
    found = worth_tables.Results("S", rows)
    difference = found.difference("samix", "vanilla")
    assert (difference.mean, difference.n) == (3.0, 1)
    assert found.repeats() == ["vanilla, seed 0: 40.0 and 30.0"]


def test_the_rival_is_the_best_of_those_that_share_the_most_seeds():
    found = results(samix=[45.0, 45.0], mixup=[40.0, 41.0], cutmix=[99.0], guidedmixup=[42.0, 38.0, 99.0])
    assert found.rival("samix", ["mixup", "cutmix", "guidedmixup"]) == "mixup"
    assert found.rival("vanilla", ["mixup"]) is None


def test_the_small_table_leaves_out_what_was_not_run():
    table = worth_tables.small_table({"S": results(vanilla=[40.0, 42.0])}, README_ROWS)
    assert table.splitlines()[2:] == ["| none | 41.0 ± 1.0 (2) | 1.0 |"]
    assert set(README_ROWS) <= set(TITLES)
    assert set(README_ROWS) <= {*ROWS, *DERIVED}


def test_published_figures_are_apart_and_say_that_they_are_not_ours():
    rows = worth_tables.published_table().splitlines()[2:]
    assert "| cifar100-r18 | 200 | 76.42 | 78.52 | 79.45 | 80.12 | 81.21 | not ours: OpenMixup" in rows[1]
    assert all("not ours" in row for row in rows)


def test_a_page_is_changed_between_its_marks_only(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- end x -->\nb\n")
    worth_report.write_between(page, {"x": r"new \1", "y": "nowhere"})
    assert page.read_text() == "a\n<!-- x -->\nnew \\1\n<!-- end x -->\nb\n"
    with pytest.raises(ValueError, match="no place for any of y"):
        worth_report.write_between(page, {"y": "new"})


def mixer(form: Form | None) -> samix.Mixer:
    mix = samix.Mixer.from_pretrained("slim")
    worth_methods.formed(Row("mixer:slim", form=form), mix)
    mix.generator.manual_seed(3)
    return mix


def test_forms_of_a_frozen_mixer_share_their_draws_and_their_mean():
    images, labels = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    plain, same, flat, soft = (
        mixer(form)(images, labels) for form in (None, Form(), Form((1.0, 1.0)), Form((0.75, 0.75)))
    )
    assert torch.equal(plain.index, flat.index)
    assert torch.equal(plain.weights, flat.weights)
    lam = flat.weights[:, 0].view(-1, 1, 1, 1)
    assert torch.equal(flat.mask, lam.expand_as(flat.mask))
    torch.testing.assert_close(same.images, plain.images)
    torch.testing.assert_close(soft.mask, lam + 0.25 * (plain.mask - lam))
    assert plain.mask.std() > 0.05


def test_partners_of_least_overlap_are_a_permutation_that_pairs_left_with_right():
    scores = torch.zeros(4, 2, 4)
    scores[:2, :, :2] = scores[2:, :, 2:] = 5.0  # two objects at the left, two at the right
    index = worth_methods.least_overlap(scores)
    assert sorted(index.tolist()) == [0, 1, 2, 3]
    assert set(index[:2].tolist()) == {2, 3}


def test_mixing_ends_where_the_form_says():
    setting, row = SETTINGS["S"], ROWS["mixer-until"]
    import worth

    recipe = worth.recipe_of(setting, "mixer-until", 0)
    method = worth_methods.make_method(setting, row, recipe, 10, ((0.5,) * 3, (0.5,) * 3))
    batch = torch.randn(4, 3, 32, 32), torch.arange(4)
    assert method(batch)[1]["mixed"] > 0
    method.after_step(0.81)
    assert method(batch)[1]["mixed"] == 0


def test_each_image_is_seen_once_where_the_row_says_so():
    import worth

    recipe = worth.recipe_of(SETTINGS["S"], "mixup-once", 0)
    method = worth_methods.make_method(SETTINGS["S"], ROWS["mixup-once"], recipe, 10, ((0.5,) * 3, (0.5,) * 3))
    seen = []
    method.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(6, 3, 32, 32)
    method((images, torch.arange(6)))
    mixed, clean = seen
    assert torch.equal(clean, images[:3])
    assert mixed.shape == clean.shape
    assert not torch.isclose(mixed[:, None], images[None, :3]).flatten(2).all(2).any()
