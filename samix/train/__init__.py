"""One loop for every method: train, evaluate, write, resume."""

from samix.train.errors import Interrupted as Interrupted
from samix.train.errors import LostProcess as LostProcess
from samix.train.errors import NonFiniteLoss as NonFiniteLoss
from samix.train.options import RunOptions as RunOptions
from samix.train.trainer import Run as Run
