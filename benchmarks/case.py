"""What a benchmark case is. Each module of this folder with a list ``CASES`` is a chapter's."""

from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Our code beside a reference on the same task.

    Attributes:
        name: short, such as ``conv2d step``.
        what: the task, with its sizes.
        ours, reference: functions that set the task up and return the work to be timed; they
            must do the same work on the same numbers.
        reference_name: such as ``torch``.
        target: our time must be at most so many times the reference's.
        rounds: how often the two are timed in turn.
    """

    name: str
    what: str
    ours: Callable[[], Work]
    reference: Callable[[], Work]
    reference_name: str
    target: float
    rounds: int = 15
