"""One loop for every method: train, evaluate, write, resume."""

from samix.engine.errors import Interrupted as Interrupted
from samix.engine.errors import LostProcess as LostProcess
from samix.engine.errors import NonFiniteLoss as NonFiniteLoss
from samix.engine.options import RunOptions as RunOptions
from samix.engine.run import Run as Run
