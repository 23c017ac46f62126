"""Faults keep what they are when one process sends them to another."""

from __future__ import annotations

import pickle

import pytest

from img2img.errors import Diverged, Fault, Faults, Interrupted, UsageFault


@pytest.mark.parametrize(
    "fault",
    [
        Fault("a.png", "is cut short", "Copy it again"),
        UsageFault("--out", "exists", "Choose another"),
        Faults([UsageFault("optim.lr", "is -1", "Give more than 0"), Fault("b.png", "is no picture", "Remove it")]),
        Diverged("runs/x", "diverged", "Try less"),
        Interrupted(15, "runs/x", "Resume"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_survives_the_way_between_processes(fault: Fault) -> None:
    other = pickle.loads(pickle.dumps(fault))
    assert type(other) is type(fault)
    assert str(other) == str(fault)
    assert other.exit_code == fault.exit_code
    if isinstance(fault, Faults):
        assert [str(one) for one in other.faults] == [str(one) for one in fault.faults]
    else:
        assert (other.subject, other.problem, other.mend) == (fault.subject, fault.problem, fault.mend)
