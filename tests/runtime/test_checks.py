import pytest

from samix.runtime.checks import check_choice, check_number, suggest


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_a_number_inside_its_range_passes(value: float) -> None:
    check_number("x", value, 0, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None, "1", True])
def test_what_is_not_a_finite_number_is_refused_even_without_bounds(value: object) -> None:
    with pytest.raises(ValueError, match=r"x must be a finite number, got"):
        check_number("x", value)


@pytest.mark.parametrize(
    ("limits", "value", "message"),
    [
        ({"low": 0, "open_low": True}, float("nan"), r"lr must be in \(0, inf\), got nan"),
        ({"low": 0, "open_low": True}, 0, r"lr must be in \(0, inf\), got 0"),
        ({"low": 0}, -1e-9, r"lr must be in \[0, inf\), got -1e-09"),
        ({"low": 0, "high": 1}, 1.5, r"lr must be in \[0, 1\], got 1.5"),
        ({"low": 0, "high": 1, "open_high": True}, 1, r"lr must be in \[0, 1\), got 1"),
        ({"high": 2**63 - 1}, 2**63, r"lr must be in \(-inf, 9223372036854775807\], got"),
        ({"low": 1, "integer": True}, 1.5, r"lr must be a whole number in \[1, inf\), got 1.5"),
        ({"low": 0, "integer": True}, True, "whole number"),
        ({"low": 0, "open_low": True}, 2**64, r"lr must be in \(0, 9223372036854775807\], got 18446744073709551616"),
        ({}, -(2**64), r"lr must be in \[-9223372036854775807, inf\), got"),
    ],
)
def test_the_message_names_option_range_and_value(limits: dict[str, float], value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_number("lr", value, **limits)


def test_a_choice_that_does_not_exist_is_refused_with_the_one_meant() -> None:
    check_choice("loss", "ce", ("ce", "bce"))
    with pytest.raises(ValueError, match=r"loss must be one of ce, bce; got 'bec'; did you mean bce\?"):
        check_choice("loss", "bec", ("ce", "bce"))


@pytest.mark.parametrize(("word", "meant"), [("cutmxi", "cutmix"), ("SAMix", "samix"), ("zzz", "")])
def test_suggestions(word: str, meant: str) -> None:
    assert suggest(word, ["samix", "cutmix"]) == (f"; did you mean {meant}?" if meant else "")
