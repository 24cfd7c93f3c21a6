"""What every analysis promises: that the network is afterwards what it was."""

import torch


def untouched(network, call):
    """Whether a call leaves weights, statistics, gradients, modes and the random state as they were."""
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    modes, state = [m.training for m in network.modules()], torch.random.get_rng_state()
    call()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
