"""Every mixup, by kind: hand-made, hidden, learned."""
