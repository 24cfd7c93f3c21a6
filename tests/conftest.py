"""Set up once for every test: a safe CPU instruction set, one thread, one seed."""

import os

# Before torch is imported. Some virtual machines advertise AMX, but kill the process with an illegal instruction in a
# convolution in bf16; this keeps oneDNN to the instructions below it.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers with two threads each would spin
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import pytest
import torch

torch.set_num_threads(1)  # pytest-xdist runs one worker per core; and sums are then in the same order everywhere


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
