"""Metrics against plain loops, with calibration errors that were planted."""

import math
import subprocess
import sys

import pytest
import torch

from samix.train.metrics import classification_metrics

CPU = torch.device("cpu")


def measure(logits, labels, batch=7, **other):
    """The metrics of given logits, in batches of which the last is short."""
    cuts = [slice(i, i + batch) for i in range(0, len(labels), batch)]
    feed = iter(cuts)

    def predict(_images):
        cut = next(feed)
        return {"first": logits[cut], **{name: value[cut] for name, value in other.items()}}

    batches = [(torch.zeros(len(labels[cut]), 3, 2, 2), labels[cut]) for cut in cuts]
    return classification_metrics(predict, batches, logits.shape[1], CPU)


def oracle(logits, labels):
    """By one sample after the other, in Python's floats."""
    count, classes = logits.shape
    top1 = top5 = nll = 0.0
    bins = [[] for _ in range(15)]
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        exponentials = [math.exp(value - max(row)) for value in row]
        probabilities = [value / sum(exponentials) for value in exponentials]
        ranked = sorted(range(classes), key=lambda k: -row[k])
        top1 += ranked[0] == label
        top5 += label in ranked[:5]
        nll -= math.log(probabilities[label])
        confidence = probabilities[ranked[0]]
        bins[min(int(confidence * 15), 14)].append((confidence, ranked[0] == label))
    gaps = [abs(sum(c for c, _ in b) - sum(hit for _, hit in b)) for b in bins]
    return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "nll": nll / count, "ece": 100 * sum(gaps) / count}


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 6, 20])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_metrics_are_the_plain_loops(classes, scale):
    logits = torch.randn(101, classes) * scale
    labels = torch.randint(classes, (101,))
    assert measure(logits, labels)["first"] == pytest.approx(oracle(logits, labels), rel=1e-5, abs=1e-4)


def test_with_five_classes_or_fewer_the_fifth_is_always_among_them():
    for classes in (2, 4, 5):
        assert measure(torch.randn(30, classes), torch.randint(classes, (30,)))["first"]["top5"] == 100.0


@pytest.mark.parametrize(("confidence", "accuracy"), [(0.97, 0.5), (0.6, 0.9), (0.8, 0.8), (0.999, 0.0)])
def test_a_planted_calibration_error_is_found(confidence, accuracy):
    """Every prediction is made at one confidence, and right as often as planted."""
    count, classes = 200, 4
    rest = (1 - confidence) / (classes - 1)
    logits = torch.full((count, classes), math.log(rest))
    logits[:, 1] = math.log(confidence)
    labels = torch.where(torch.arange(count) < accuracy * count, 1, 2)
    found = measure(logits, labels)["first"]
    assert found["ece"] == pytest.approx(100 * abs(confidence - accuracy), abs=1e-3)
    assert found["top1"] == pytest.approx(100 * accuracy)
    assert found["nll"] == pytest.approx(-accuracy * math.log(confidence) - (1 - accuracy) * math.log(rest), rel=1e-5)


def test_a_perfect_and_certain_classifier():
    labels = torch.arange(30) % 6
    found = measure(torch.eye(6)[labels] * 200, labels)["first"]
    assert found == {"top1": 100.0, "top5": 100.0, "nll": 0.0, "ece": 0.0}


def test_the_size_of_batches_does_not_matter():
    logits, labels = torch.randn(50, 7), torch.randint(7, (50,))
    for batch in (1, 9, 50, 64):
        assert measure(logits, labels, batch)["first"] == pytest.approx(measure(logits, labels)["first"], rel=1e-5)


def test_classifiers_are_measured_apart_and_in_order():
    logits, labels = torch.randn(40, 6), torch.randint(6, (40,))
    found = measure(logits, labels, second=-logits)
    assert list(found) == ["first", "second"]
    assert found["second"] == pytest.approx(oracle(-logits, labels), rel=1e-5, abs=1e-4)


def test_half_precision_logits_are_measured_in_float32():
    logits, labels = torch.randn(64, 10).bfloat16(), torch.randint(10, (64,))
    assert measure(logits, labels)["first"] == pytest.approx(oracle(logits, labels), rel=1e-5, abs=1e-4)


def test_a_nan_makes_the_likelihood_infinite_instead_of_vanishing():
    """torchmetrics' default leaves it out of the mean, with a warning: a broken network would look well."""
    logits, labels = torch.randn(20, 4), torch.randint(4, (20,))
    logits[3, 1] = float("nan")
    assert measure(logits, labels)["first"]["nll"] == math.inf


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="nothing to evaluate: the held-out split is empty"):
        classification_metrics(lambda x: {"a": x}, [], 3, CPU)


def test_metrics_are_those_of_torchmetrics():
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    logits, labels = 4.0 * torch.randn(300, 12), torch.randint(12, (300,))
    logits[:20] *= 100.0  # confidences of exactly 1
    assert (logits.softmax(1).amax(1) == 1).sum() >= 10
    found = measure(logits, labels)["first"]
    for name, k in (("top1", 1), ("top5", 5)):
        wanted = 100 * float(multiclass_accuracy(logits, labels, 12, average="micro", top_k=k))
        assert found[name] == pytest.approx(wanted, rel=1e-6)
    wanted = 100 * float(multiclass_calibration_error(logits.softmax(1), labels, 12, n_bins=15))
    assert found["ece"] == pytest.approx(wanted, rel=1e-5)


def test_an_evaluation_imports_no_library_of_metrics_or_pictures():
    """They would take seconds at the start of every run."""
    code = "import sys, torch; from samix.train.metrics import classification_metrics as m; "
    code += "m(lambda x: {'a': x}, [(torch.eye(3), torch.arange(3))], 3, torch.device('cpu')); "
    code += "print(sorted({'torchmetrics', 'matplotlib', 'transformers', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
