import samix


def args_of(cls: type) -> list[str]:
    section = cls.__doc__.partition("Args:\n")[2].partition("\n\n")[0]
    return [
        line.strip().partition(":")[0] for line in section.split("\n") if line.startswith("    ") and line[4] != " "
    ]


def test_help_shows_arguments_of_the_base_after_those_of_the_class():
    assert args_of(samix.CutMix)[:4] == ["clip", "alpha", "prob", "per_sample"]
    assert args_of(samix.SAMix)[:3] == ["options", "model", "num_classes"]
    assert {"temperature", "groups", "hardest"} <= set(args_of(samix.MoCHiOptions))


def test_help_shows_only_arguments_that_a_class_takes():
    assert "mixed_weight" not in args_of(samix.DACLOptions)
    assert set(args_of(samix.MoCHi)) == {"model", "options", "mixup", "generator"}
    assert args_of(samix.RandomChoice) == ["choices", "weights", "generator"]


def test_errors_of_the_base_stand_before_the_example():
    doc = samix.SAMix.__doc__
    assert doc.index("Args:") < doc.index("Raises:\n    ValueError: unknown preset") < doc.index("Example:")
