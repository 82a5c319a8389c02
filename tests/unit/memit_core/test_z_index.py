"""The index of a batch of z: what it reads, in parts, and of the groups that stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from memit_core.facts import Fact, group_facts
from memit_core.z_index import Reads, ZIndex
from memit_core.z_rows import GroupRows, group_rows, rows_by_context
from tests.tiny_models import tiny_tokenizer
from tests.unit.memit_core.examples import CONTEXTS, FACTS, HPARAMS

CPU = torch.device("cpu")
WITH_END = replace(HPARAMS, v_end_factor=0.5, kl_factor=0.25)


@pytest.fixture(scope="module", params=[False, True], ids=["as posted", "questions too"])
def groups(request: pytest.FixtureRequest) -> list[GroupRows]:
    """One of two facts among them; the target of one ends in no word, and its prompt is a
    question already."""
    facts = [*FACTS, Fact("Lisbon", "What does {} play?", "violin!")]
    return [
        group_rows(tiny_tokenizer(), g, CONTEXTS, None, True, question=request.param)
        for g in group_facts(facts)
    ]


def terms(index: ZIndex) -> tuple[Reads, Reads, Reads]:
    return index.targets, index.ends, index.subjects


def test_every_token_is_read_where_it_is_predicted(groups: list[GroupRows]) -> None:
    index = ZIndex.of(groups, WITH_END, CPU)
    rows = [row for of_context in rows_by_context(groups) for row in of_context]
    rows += [group.subject for group in groups]
    for at, column, token in zip(
        index.targets.row, index.targets.column, index.target_ids, strict=True
    ):
        row = rows[at]
        position = row.lookup + int(column)
        assert row.targets[row.target_positions.index(position)] == token
    assert len(index.targets) == sum(len(row.targets) for row in rows)
    for at, column in zip(index.ends.row, index.ends.column, strict=True):
        assert rows[at].ends
        assert rows[at].lookup + int(column) == len(rows[at].ids) - 1
    assert len(index.ends) == sum(row.ends for row in rows)
    posted, asked = 5 * len(CONTEXTS), 4 * len(CONTEXTS)  # one prompt ends with its subject
    assert len(index.ends) == posted + (asked if len(groups[0].facts) > len(CONTEXTS) else 0)
    assert [rows[at] for at in index.subjects.row] == [group.subject for group in groups]
    assert not index.subjects.column.any()


def test_the_weights_of_a_group_sum_to_the_terms_factor(groups: list[GroupRows]) -> None:
    index = ZIndex.of(groups, WITH_END, CPU)
    for reads, factor in zip(terms(index), (1.0, 0.5, 0.25), strict=True):
        sums = torch.zeros(len(groups)).index_add_(0, reads.group, reads.weight)
        learned = torch.tensor([any(reads.group == g) for g in range(len(groups))])
        torch.testing.assert_close(sums, factor * learned.float())
    assert len(index.ends.group.unique()) == len(groups) - 1


def test_what_stays_is_the_index_of_those_groups_alone(groups: list[GroupRows]) -> None:
    """But for the numbers of the groups, which they keep."""
    keep = torch.tensor([True, False, True, False, True])
    index = ZIndex.of(groups, WITH_END, CPU)
    rest = [group for group, stays in zip(groups, keep, strict=True) if stays]
    ours, alone = index.select(keep), ZIndex.of(rest, WITH_END, CPU)
    number = keep.nonzero()[:, 0]
    assert torch.equal(ours.row_group, number[alone.row_group])
    assert torch.equal(ours.row_group, index.row_group[index.rows(keep)])
    assert torch.equal(ours.target_ids, alone.target_ids)
    for mine, theirs in zip(terms(ours), terms(alone), strict=True):
        assert torch.equal(mine.row, theirs.row)
        assert torch.equal(mine.column, theirs.column)
        assert torch.equal(mine.group, number[theirs.group])
        assert torch.equal(mine.weight, theirs.weight)


@pytest.mark.parametrize("size", [1, 3, 7, 1_000])
def test_parts_cover_what_is_read_once_and_in_order(groups: list[GroupRows], size: int) -> None:
    index = ZIndex.of(groups, WITH_END, CPU)
    hidden = torch.arange(len(index.row_group) * 40.0).reshape(-1, 40, 1)
    whole = index.read(hidden)
    assert len(whole) == sum(map(len, terms(index)))
    parts = []
    for start in range(0, len(whole), size):
        stop = min(start + size, len(whole))
        reads = [
            term[part] for term, part in zip(terms(index), index.parts(start, stop), strict=True)
        ]
        assert sum(map(len, reads)) == stop - start
        parts += [hidden[term.row, term.column] for term in reads]
    assert torch.equal(torch.cat(parts), whole)
