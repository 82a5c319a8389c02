"""All that is under `/v1`."""

from __future__ import annotations

from fastapi import APIRouter

from service.openai_api import chat, completions, models
from service.openai_api.errors import ErrorAnswer

router = APIRouter(
    prefix="/v1",
    tags=["openai"],
    responses={"default": {"description": "What is wrong.", "model": ErrorAnswer}},
)
for part in (models, completions, chat):
    router.include_router(part.router)
