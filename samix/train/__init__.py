"""One loop for every method: train, evaluate, save, call back, resume."""

from samix.train.callbacks import Callback as Callback
from samix.train.interruption import Interrupted as Interrupted
from samix.train.interruption import LostProcess as LostProcess
from samix.train.interruption import NonFiniteLoss as NonFiniteLoss
from samix.train.options import RunOptions as RunOptions
from samix.train.trainer import Run as Run
