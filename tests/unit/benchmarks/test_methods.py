"""Methods side by side: which facts a size takes, how they are written, and what is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import methods
from benchmarks.methods import AT_ONCE, IN_A_ROW, Comparison, CountedZ, ways_of
from benchmarks.quality import groups_of
from memit_core.cache import MemoryCache
from memit_core.edit import Editor
from memit_core.eval.benchmark import Options
from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.records import Record, spread
from memit_core.eval.yardstick import Yardstick
from memit_core.progress import silent
from tests.tiny_models import TEXT, save_tiny
from tests.unit.benchmarks.test_benchmarks import RECORDS
from tests.unit.memit_core.examples import FACTS, editor_of, loaded_tiny

TWELVE = [
    Record(i, replace(FACTS[0], subject=f"Anna {i}", target_true="painter"), (), ())
    for i in range(12)
]


@pytest.fixture(scope="module")
def editor() -> Editor:
    return editor_of(loaded_tiny("llama"))


@pytest.fixture(scope="module")
def compared(editor: Editor) -> Comparison:
    """Twelve facts, of which four are asked."""
    questions = Options(generations=0, chats=0, capability=False, held_out=TEXT)
    yardstick = Yardstick(editor, COUNTERFACT, spread(TWELVE, 4), questions, silent)
    return Comparison(editor, yardstick, TWELVE, CountedZ(MemoryCache()))


def test_small_sizes_are_groups_of_asked_facts() -> None:
    asked = spread(TWELVE, 4)
    indices = [[record.index for record in group] for group in groups_of(TWELVE, asked, 1)]
    assert indices == [[0], [3], [6], [9]]
    assert [len(group) for group in groups_of(TWELVE, asked, 2)] == [2, 2]


def test_large_sizes_hold_all_asked_facts_and_others() -> None:
    for size in (4, 7, 12):
        (group,) = groups_of(TWELVE, spread(TWELVE, 4), size)
        indices = [record.index for record in group]
        assert len(indices) == size
        assert indices == sorted(indices)
        assert {0, 3, 6, 9} <= set(indices)


def test_in_a_row_is_shown_where_it_ends_elsewhere(editor: Editor) -> None:
    assert ways_of(editor, "memit", 10) == [AT_ONCE]
    assert ways_of(editor, "ft", 10) == [AT_ONCE, IN_A_ROW]
    assert ways_of(editor, "rome", 10) == [IN_A_ROW]
    assert ways_of(editor, "rome", 1) == [AT_ONCE]


def test_every_method_at_every_size(tmp_path: Path) -> None:
    facts, text, hparams, out, chart = (
        tmp_path / name for name in ("facts.json", "text.txt", "hparams.json", "out.json", "a.png")
    )
    facts.write_text(json.dumps(RECORDS))
    text.write_text(TEXT)
    hparams.write_text(
        '{"layers": [0, 1], "v_num_grad_steps": 3, "n_contexts": 1, "mom2_n_tokens": 500}'
    )
    options = {"skip": 0, "asked": 2, "chats": 1, "model": str(save_tiny("llama", tmp_path / "m"))}
    options |= {"hparams": hparams, "mend": None, "home": tmp_path / "home"}

    def run(names: str, out: Path, beside: Path | None = None) -> list[dict[str, object]]:
        methods.main(
            facts, text, sizes="1,3", methods=names, json_out=out, chart=chart, beside=beside,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        rows: list[dict[str, object]] = json.loads(out.read_text())
        return rows

    first = run("memit,ultraedit", out)
    assert [(row["facts"], row["method"], row["way"]) for row in first] == [
        (0, "unedited", ""),
        (1, "memit", AT_ONCE),
        (1, "ultraedit", AT_ONCE),
        (3, "memit", AT_ONCE),
        (3, "ultraedit", AT_ONCE),
        (3, "ultraedit", IN_A_ROW),
    ]
    assert all(row["asked"] == 2 for row in first)
    # Groups of one are each measured on the model that holds them alone.
    assert all(isinstance(row["seconds_per_fact"], float) for row in first[1:])
    assert chart.read_bytes().startswith(b"\x89PNG")
    second = run("ft", tmp_path / "second.json", out)
    assert second[0] == first[0]
    assert {row["method"] for row in second} == {"unedited", "ft"}
