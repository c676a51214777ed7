"""The chapters: each runs in its fast version, and what is committed is a full run, in order."""

import re

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from chapters.notebooks import FOLDER, chapters, execute

MOST_BYTES = 3 * 2**19  # 1.5 MiB
CHAPTERS = chapters()
each = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


@each
def test_a_chapter_runs_in_its_fast_version(path):
    before = path.read_bytes()
    execute(path, full=False)
    assert path.read_bytes() == before


@each
def test_what_is_committed_is_a_full_run_without_warnings(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("FAST = False" in cell.source for cell in code)
    for cell in code:
        assert all(output.get("name") != "stderr" for output in cell.outputs), cell.source
        assert all(output.output_type != "error" for output in cell.outputs), cell.source
    assert path.stat().st_size < MOST_BYTES


@each
def test_a_chapter_says_what_it_asks_and_ends_with_exercises_and_sources(path):
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.match(r"# \d+ · .+\?", prose), "the title is the chapter's question"
    for part in ("**The question.**", "**You need**", "**It runs**", "## What is still wrong",
                 "## Exercises", "## Sources"):  # fmt: skip
        assert part in prose, part
    assert max(len(cell.source.splitlines()) for cell in notebook.cells) <= 60


@each
def test_no_path_of_a_machine_is_in_a_chapter(path):
    text = path.read_text()
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)


def made(tmp_path, *sources, tags=("parameters",)):
    """Write a notebook whose first cell bears the tags."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = list(tags)
    path = tmp_path / "ch99_made.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_fast_and_full_set_the_parameter(tmp_path):
    path = made(tmp_path, "FAST = False", "print(FAST)")
    for full, printed in ((False, "True\n"), (True, "False\n")):
        notebook = execute(path, full=full)
        assert notebook.cells[1].outputs[0].text == printed
        assert notebook.cells[0].source == f"FAST = {not full}"


def test_a_failing_cell_and_a_missing_parameter_are_reported(tmp_path):
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(made(tmp_path, "FAST = False", "1 / 0"), full=True)
    with pytest.raises(ValueError, match="has no cell tagged 'parameters' that sets FAST = False"):
        execute(made(tmp_path, "FAST = False", tags=()), full=True)


def test_chapters_are_found_by_the_beginning_of_their_names():
    assert {path.parent for path in CHAPTERS} == {FOLDER}
    assert chapters([CHAPTERS[0].name[:4]]) == CHAPTERS[:1]
    with pytest.raises(ValueError, match="NAME is 'ch98', expected the beginning of a file"):
        chapters(["ch98"])
