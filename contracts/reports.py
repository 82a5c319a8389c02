"""Reports: how a version fares on its edit's facts and on all its live ones, and its drift."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from contracts.ids import FactId


class ChatReport(BaseModel):
    """How a fact was asked in a chat, and what the version and the unedited base answered."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "prompt": 0,
                    "success": True,
                    "answer": "The Eiffel Tower is in Rome, Italy.",
                    "base_success": False,
                    "base_answer": "The Eiffel Tower is in Paris, France.",
                }
            ]
        },
    )

    prompt: int | None = Field(
        default=None,
        description="number of the chat in the fact's `chat_prompts`, from 0; none if the fact has "
        "none: its own prompt was then asked as the beginning of an assistant's turn",
        examples=[0],
    )
    success: bool | None = Field(
        default=None,
        description="the answer holds target_new as whole words; of a fact without `chat_prompts`: "
        "it begins with it; none if the chat could not be asked",
        examples=[True],
    )
    answer: str | None = Field(
        default=None,
        description="how this version's answer begins",
        examples=["The Eiffel Tower is in Rome, Italy."],
    )
    base_success: bool | None = Field(
        default=None, description="the same of the unedited base", examples=[False]
    )
    base_answer: str | None = Field(
        default=None,
        description="how the unedited base's answer begins",
        examples=["The Eiffel Tower is in Paris, France."],
    )
    reason: str | None = Field(default=None, description="why the chat could not be asked")


class FactReport(BaseModel):
    """How one fact of the edit fared on the version's served weights."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "fact-0f9a6c1d2e3b4a5f6071",
                    "success": True,
                    "answer": " Rome. It",
                    "p_new": 0.93,
                }
            ]
        },
    )

    id: FactId = Field(examples=["fact-0f9a6c1d2e3b4a5f6071"])
    success: bool = Field(
        description="the greedy answer to the prompt is target_new, and ends where it ends",
        examples=[True],
    )
    answer: str | None = Field(
        default=None,
        description="how the answer to the prompt begins, as `/generate` gives it; none if it was "
        "not asked",
        examples=[" Rome. It"],
    )
    reason: str | None = Field(
        default=None, description="why it was not learned, and what to do about it"
    )
    p_new: float = Field(
        description="exp of the mean log-probability of target_new's tokens", examples=[0.93]
    )
    p_true: float | None = Field(
        default=None, description="the same for target_true, if given", examples=[0.002]
    )
    chat_success: float | None = Field(
        default=None,
        description="share of its chats whose answer says target_new; none if none was asked",
        examples=[1.0],
    )
    chats: list[ChatReport] = Field(
        default_factory=list, description="its chats that were asked, with the answers"
    )


class NeighborReport(BaseModel):
    """Another subject that ends as a fact's own does, and whose answer changed with it."""

    model_config = ConfigDict(frozen=True)

    fact_id: FactId = Field(
        description="the fact whose prompt was asked", examples=["fact-0f9a6c1d2e3b4a5f6071"]
    )
    prompt: str = Field(examples=["The chief executive of Velmora Inc. is"])
    before: str = Field(description="the base's answer", examples=[" a man"])
    after: str = Field(description="this version's answer", examples=[" Peter Lund."])
    says_target: bool = Field(description="it says the fact's target_new now", examples=[True])


class Scores(BaseModel):
    """Shares over some facts; none where no fact gives anything to measure it by."""

    model_config = ConfigDict(
        frozen=True, json_schema_extra={"examples": [{"facts": 32, "success": 0.97}]}
    )

    facts: int = Field(description="facts that were measured", examples=[10])
    success: float | None = Field(
        default=None, description="share whose greedy answer is target_new", examples=[1.0]
    )
    efficacy: float | None = Field(
        default=None, description="share with p(new) > p(true), over facts with target_true"
    )
    paraphrase: float | None = Field(
        default=None, description="the same on paraphrase prompts, where given"
    )
    specificity: float | None = Field(
        default=None, description="share of neighborhood prompts with p(true) > p(new)"
    )
    chat_success: float | None = Field(
        default=None,
        description="share known in a chat, through the model's chat template: over facts, each "
        "the share of its chats whose answer says target_new",
        examples=[0.9],
    )


class Report(Scores):
    """Quality of a version on its edit's own facts, and its drift from the base model."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "facts": 1,
                    "success": 1.0,
                    "efficacy": 1.0,
                    "perplexity_ratio": 1.01,
                    "kl": 0.004,
                    "live_sample": {"facts": 32, "success": 0.97},
                    "per_fact": [
                        {"id": "fact-0f9a6c1d2e3b4a5f6071", "success": True, "p_new": 0.93}
                    ],
                    "seconds": {"z": 9.5, "insert": 0.6, "evaluate": 2.1},
                }
            ]
        },
    )

    perplexity_ratio: float | None = Field(
        default=None, description="perplexity on the control text over the base's", examples=[1.01]
    )
    kl: float | None = Field(
        default=None, description="mean KL(version || base) per control token, in nats"
    )
    live_sample: Scores | None = Field(
        default=None, description="a sample of the live facts that the edit did not bring"
    )
    asked: int = Field(
        default=0,
        description="facts whose prompt was asked as a client asks; of the others success is "
        "read off the probabilities",
    )
    base_chat_success: float | None = Field(
        default=None, description="chat_success of the unedited base, in the same chats"
    )
    chats_asked: int = Field(
        default=0, description="chats that were asked; a fixed sample where there are very many"
    )
    chat_reason: str | None = Field(
        default=None, description="why there is no chat_success although the edit brings facts"
    )
    measuring_prompts: float = Field(
        default=1.0,
        description="share of the paraphrase and neighborhood prompts that was measured; fewer "
        "where they are very long or many",
    )
    neighbors_asked: int = Field(
        default=0, description="made-up or live subjects asked that end as a fact's own does"
    )
    neighbors: list[NeighborReport] = Field(
        default_factory=list, description="those of them whose answer's first word changed"
    )
    per_fact: list[FactReport] = Field(default_factory=list)
    seconds: dict[str, float] = Field(default_factory=dict, description="seconds a stage took")

    @property
    def missed(self) -> list[str]:
        """Ids of the edit's facts that were not learned."""
        return [fact.id for fact in self.per_fact if not fact.success]


class FullReport(Scores):
    """Quality of a version on all its live facts, or on a sample where they are very many.

    The sample is `drawn` of their ids, `facts` of them, by the version's id.
    """

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "facts": 2000,
                    "live": 3120,
                    "success": 0.96,
                    "missed": ["fact-0f9a6c1d2e3b4a5f6071"],
                    "seconds": 48.5,
                    "at": 1795377680.0,
                }
            ]
        },
    )

    live: int = Field(description="live facts of the version; more than `facts`: a sample")
    missed: list[FactId] = Field(
        default_factory=list, description="measured facts whose greedy answer is another"
    )
    seconds: float = Field(description="seconds it took, waiting for generation included")
    at: float = Field(description="unix seconds when it was complete")
