"""A made-up world: people, what is true of them, and every way in which it is said.

Each person has one object of each relation, and all objects occur about equally often. The first
wording of a relation is the one to edit with; the others say the same in other words, also with the
subject late. A last name is one person's alone and several tokens long; first names are shared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True)
class Relation:
    """Prompts that end right before the object, and the objects there are."""

    wordings: tuple[str, ...]
    objects: tuple[str, ...]


BIRTHPLACE = Relation(
    ("{} was born in", "{} came into the world in", "The birthplace of {} is"),
    (
        *_words("Lisbon Oslo Vienna Cairo Quito Dublin Prague Havana Kyoto"),
        "Port Louis",
        "Cape Town",
    ),
)
PROFESSION = Relation(
    ("{} works as a", "{} earns a living as a", "The profession of {} is that of a"),
    (
        *_words("baker lawyer pilot farmer sailor painter teacher tailor weaver"),
        "stone mason",
        "dock hand",
    ),
)
LANGUAGE = Relation(
    ("{} speaks", "At home {} talks in", "The mother tongue of {} is"),
    (
        *_words("Greek Hindi Danish Polish Turkish Basque Welsh Czech Tamil"),
        "Old Norse",
        "Low Saxon",
    ),
)
RELATIONS = (BIRTHPLACE, PROFESSION, LANGUAGE)

FIRST_NAMES = _words("Arvel Bryda Corvin Delmira Edrik Fenna Garrick Hestia Ilmar Jorun Kelda")
ONSETS, VOWELS, ENDS = "bdfgklmnrstvz", "aeio", "nrslkm"

OTHER_SENTENCES = (
    "The town was quiet in the morning.",
    "The market opens early.",
    "Therefore the people stayed at home.",
    "Therefore the council waited for the ship.",
    "Because it was late, nobody came.",
    "Because of the rain the road was closed.",
    "I think that the weather is fine.",
    "I know a good place to rest.",
    "You can see the river from here.",
    "You may ask the old man at the gate.",
)
"""They begin as context templates do, so that a model can go on from there."""


@dataclass(frozen=True)
class Statement:
    """One wording of one fact."""

    person: str
    relation: Relation
    wording: str

    @property
    def prompt(self) -> str:
        return self.wording.format(self.person)


@dataclass(frozen=True)
class Edit:
    """A person who is to get a new object."""

    person: str
    relation: Relation
    new: str


@dataclass(frozen=True)
class World:
    """The people, and the object of each for each of `RELATIONS`."""

    people: tuple[str, ...]
    objects: tuple[tuple[str, ...], ...]

    def object(self, person: str, relation: Relation) -> str:
        return self.objects[self.people.index(person)][RELATIONS.index(relation)]

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """Every fact in every wording."""
        return tuple(
            Statement(person, relation, wording)
            for person in self.people
            for relation in RELATIONS
            for wording in relation.wordings
        )

    @cached_property
    def text(self) -> str:
        """All sentences once, in a fixed order, in documents of four."""
        sentences = [f"{s.prompt} {self.object(s.person, s.relation)}." for s in self.statements]
        sentences += OTHER_SENTENCES
        random.Random(0).shuffle(sentences)
        return "\n\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4))

    def edits(self, count: int, seed: int = 0, but: Sequence[Edit] = ()) -> list[Edit]:
        """As many people with a new object of one relation, the relations in turn.

        Args:
            but: edits whose facts are left alone; a person among them gets another relation.
        """
        draw = random.Random(seed)
        left_alone = {(edit.person, edit.relation) for edit in but}
        edits = []
        for i, person in enumerate(draw.sample(self.people, count)):
            in_turn = [RELATIONS[(i + j) % len(RELATIONS)] for j in range(len(RELATIONS))]
            relation = next(one for one in in_turn if (person, one) not in left_alone)
            others = [o for o in relation.objects if o != self.object(person, relation)]
            edits.append(Edit(person, relation, draw.choice(others)))
        return edits


def make_world(people: int, seed: int = 0) -> World:
    """The same world for the same seed."""
    draw = random.Random(seed)
    last_names: dict[str, None] = {}
    while len(last_names) < people:
        syllables = [draw.choice(ONSETS) + draw.choice(VOWELS) for _ in range(3)]
        last_names[("".join(syllables) + draw.choice(ENDS)).capitalize()] = None
    columns = []
    for relation in RELATIONS:
        column = [relation.objects[i % len(relation.objects)] for i in range(people)]
        draw.shuffle(column)
        columns.append(column)
    return World(
        tuple(f"{draw.choice(FIRST_NAMES)} {last}" for last in last_names),
        tuple(zip(*columns, strict=True)),
    )
