"""MEND: a network trained for one base turns the gradient of an edit into the edit."""

from memit_core.methods.mend.method import Mend

__all__ = ["Mend"]
