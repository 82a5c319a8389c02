"""What is there when a worker is ready is not looked at again; what comes later is."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: nothing that other tests make should stay.
LEAVE = """
import gc, weakref
import torch
from worker.garbage import leave_what_is_here

class Ring:
    def __init__(self):
        self.me = self

before = weakref.ref(Ring())
leave_what_is_here()
assert before() is None
assert gc.get_freeze_count() > 10_000 > len(gc.get_objects())
after = weakref.ref(Ring())
assert after() is not None
gc.collect()
assert after() is None
"""


def test_only_what_comes_later_is_looked_at() -> None:
    subprocess.run([sys.executable, "-c", LEAVE], check=True, timeout=120)
