"""Networks and Mixers on disk and on the hub: written, read, checked."""
