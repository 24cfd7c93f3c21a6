"""Learns features without labels, then trains on few labels: from these features, and from new weights for comparison.

python examples/pretrain_then_train.py --seeds 3                                            # digits, 50 labels
python examples/pretrain_then_train.py --data folder:DIR --recipe cifar-slim --labels 500   # images of 32 pixels
"""

from __future__ import annotations

import argparse
import statistics

import samix


def main() -> None:
    """Prints top-1 of both starts for each seed, and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--recipe", default="digits", help="digits or cifar-slim: RECIPE-moco, then its own labels")
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=20, help="without labels")
    parser.add_argument("--method", default="moco")
    parser.add_argument("--mixup", default="samix", help="in the run without labels")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", default="runs/pretrain-then-train")
    arguments = parser.parse_args()
    then = "digits-quick" if arguments.recipe == "digits" else arguments.recipe
    found: dict[str, list[float]] = {"pre-trained": [], "new weights": []}
    for seed in range(arguments.seeds):
        common = {"train": arguments.data, "seed": seed, "out": f"{arguments.out}/{seed}", "quiet": True}
        features = samix.pretrain(
            method=arguments.method,
            mixup=arguments.mixup,
            recipe=f"{arguments.recipe}-moco",
            epochs=arguments.epochs,
            pictures=False,
            **common,
        )
        for start, init in (("pre-trained", str(features.folder)), ("new weights", "")):
            result = samix.fit(
                mixup="vanilla",
                recipe=then,
                init=init,
                limit=arguments.labels,
                batch_size=25,
                eval_every=1000,  # at the end
                run=start.replace(" ", "-"),
                pictures=False,
                **common,
            )
            found[start].append(result.summary["top1"])
    for start, values in found.items():
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        print(
            f"{start}: {statistics.mean(values):.1f}{spread} % of the held-out images ({', '.join(map(str, values))})"
        )


if __name__ == "__main__":
    main()
