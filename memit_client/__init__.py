"""A client of the service: `from memit_client import Memit, AsyncMemit`."""

from memit_client.clients import AsyncMemit, Memit
from memit_client.edits import Edit, EditFact, Progress, Superseded
from memit_client.errors import (
    Conflict,
    ConnectionFailed,
    EditCancelled,
    EditFailed,
    EditRejected,
    InvalidRequest,
    MemitError,
    NotCommitted,
    NotFound,
    PreconditionFailed,
    Refused,
    TooManyRequests,
    Unavailable,
    UnexpectedAnswer,
    WaitTimeout,
)
from memit_client.facts import Fact, FactDetail, LiveFact
from memit_client.generation import Choice, Generation, Sampling, TextEvent, TokenLogprob, Usage
from memit_client.methods import Gate
from memit_client.probes import Health, Readiness
from memit_client.problems import FieldError, Problem
from memit_client.reports import FactReport, FullReport, NeighborReport, Report, Scores
from memit_client.versions import Alias, LayerWeights, Ledger, Version

__all__ = [
    "Alias",
    "AsyncMemit",
    "Choice",
    "Conflict",
    "ConnectionFailed",
    "Edit",
    "EditCancelled",
    "EditFact",
    "EditFailed",
    "EditRejected",
    "Fact",
    "FactDetail",
    "FactReport",
    "FieldError",
    "FullReport",
    "Gate",
    "Generation",
    "Health",
    "InvalidRequest",
    "LayerWeights",
    "Ledger",
    "LiveFact",
    "Memit",
    "MemitError",
    "NeighborReport",
    "NotCommitted",
    "NotFound",
    "PreconditionFailed",
    "Problem",
    "Progress",
    "Readiness",
    "Refused",
    "Report",
    "Sampling",
    "Scores",
    "Superseded",
    "TextEvent",
    "TokenLogprob",
    "TooManyRequests",
    "Unavailable",
    "UnexpectedAnswer",
    "Usage",
    "Version",
    "WaitTimeout",
]
