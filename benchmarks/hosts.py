"""Trains on two hosts, which are two network namespaces of this machine, by the commands of docs/scaling.md.

    python benchmarks/hosts.py --launchers torchrun accelerate --per-host 2

Each namespace has an address of its own, and nothing in common with the other but a wire (a pair of virtual network
devices) and the file system. The losses must be those of as many processes on one host. Namespaces need root: without
it the script says so and ends with status 77.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from training_command import ROOT, SLIM, one_thread

FLAGS = ["--recipe", "digits-quick", "--mixup", "samix", "--model-args", SLIM, "--limit", "200", "--epochs", "2"]
FLAGS += ["--batch-size", "40", "--size", "8", "--device", "cpu", "--quiet"]
HOSTS = ("samix-host-0", "samix-host-1")
ADDRESSES = ("10.77.31.1", "10.77.31.2")
NOT_PERMITTED = 77
LIMIT = 300  # seconds for a run
# As in docs/scaling.md; what is in braces is filled in.
LAUNCHERS = {
    "torchrun": "torchrun --nnodes 2 --nproc_per_node {per_host} --node_rank {rank} "
    "--master_addr {address} --master_port 29500 -m -- samix train",
    "accelerate": "accelerate launch --multi_gpu --num_machines 2 --num_processes {total} --machine_rank {rank} "
    "--main_process_ip {address} --main_process_port 29500 --mixed_precision no --dynamo_backend no -m -- samix train",
}
ONE_HOST = "torchrun --standalone --nproc_per_node {total} -m -- samix train"
TIMES = ("images_per_second",)


def ip(*words: str) -> None:
    """Runs ip, and raises what it says."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextlib.contextmanager
def two_hosts() -> Iterator[None]:
    """Two namespaces, joined by a wire; gone afterwards."""
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", "wire0", "netns", HOSTS[0], "type", "veth", "peer", "name", "wire1", "netns", HOSTS[1])
        for number, (host, address) in enumerate(zip(HOSTS, ADDRESSES, strict=True)):
            ip("-n", host, "addr", "add", f"{address}/24", "dev", f"wire{number}")
            for device in ("lo", f"wire{number}"):
                ip("-n", host, "link", "set", device, "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


def launch(command: str, out: Path, run: str, inside: int | None = None) -> subprocess.Popen[str]:
    """Starts a command, on a host where one is given."""
    words = [*shlex.split(command), *FLAGS, "--out", str(out), "--run", run]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = one_thread(CUDA_VISIBLE_DEVICES="", PATH=path)
    if inside is not None:
        print(f"  {HOSTS[inside]}: {command} ...", flush=True)
        words = ["ip", "netns", "exec", HOSTS[inside], *words]
        environment["GLOO_SOCKET_IFNAME"] = f"wire{inside}"  # the host's name is that of the whole machine
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(processes: list[subprocess.Popen[str]]) -> None:
    """Waits for all, and ends with what one of them said if it failed."""
    try:
        for process in processes:
            output = process.communicate(timeout=LIMIT)[0]
            if process.returncode:
                raise SystemExit(f"status {process.returncode}:\n{output[-4000:]}")
    finally:
        for process in processes:
            process.kill()


def rows(folder: Path) -> list[dict[str, float]]:
    """The log's lines without times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def main() -> int:
    """Trains on one host, then on two, and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", nargs="+", choices=list(LAUNCHERS), default=list(LAUNCHERS))
    parser.add_argument("--per-host", type=int, default=1, help="processes on each host")
    asked = parser.parse_args()
    total, different = 2 * asked.per_host, 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        out = Path(name)
        try:
            stack.enter_context(two_hosts())
        except (PermissionError, FileNotFoundError) as error:
            print(f"no network namespaces here: {error}")
            return NOT_PERMITTED
        finish([launch(ONE_HOST.format(total=total), out, "one")])
        for launcher in asked.launchers:
            started = time.monotonic()
            values = {"per_host": asked.per_host, "total": total, "address": ADDRESSES[0]}
            commands = [LAUNCHERS[launcher].format(rank=rank, **values) for rank in range(2)]
            finish([launch(command, out, launcher, host) for host, command in enumerate(commands)])
            processes = json.loads((out / launcher / "summary.json").read_text())["processes"]
            same = rows(out / launcher) == rows(out / "one") and processes == total
            different += not same
            print(
                f"{launcher}: {processes} processes on 2 hosts, {time.monotonic() - started:.0f} s, losses and metrics "
                f"{'equal to' if same else 'DIFFERENT from'} those of {total} processes on one host"
            )
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
