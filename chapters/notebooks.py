"""Execute the chapters: fast to see that they run, or in full to renew their committed outputs.

python chapters/notebooks.py [--full] [NAME …], where NAME is the beginning of a file's name (ch01).
A fast run sets FAST = True in the cell tagged "parameters", draws coarsely, and writes nothing.
"""

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parent


def chapters(names: list[str] = ()) -> list[Path]:
    """Return the notebooks whose names begin so; all of them without names.

    Raises:
        ValueError: a name fits none.
    """
    every = sorted(FOLDER.glob("ch*.ipynb"))
    for name in names:
        if not any(path.name.startswith(name) for path in every):
            raise ValueError(f"NAME is {name!r}, expected the beginning of a file in {FOLDER}")
    return [path for path in every if not names or path.name.startswith(tuple(names))]


def execute(path: Path, *, full: bool) -> nbformat.NotebookNode:
    """Run a notebook top to bottom in a kernel of its own; return it with its outputs.

    Raises:
        CellExecutionError: a cell raised.
        ValueError: no cell is tagged "parameters", or it does not set FAST = False.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    if len(cells) != 1 or "FAST = False" not in cells[0].source:
        raise ValueError(f"{path.name} has no cell tagged 'parameters' that sets FAST = False")
    if not full:
        cells[0].source = cells[0].source.replace("FAST = False", "FAST = True")
    options = ["--log-level=ERROR"]  # no warning about its connection to this process
    if not full:
        options.append("--InlineBackend.print_figure_kwargs={'bbox_inches': None, 'dpi': 40}")
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}}, extra_arguments=options,
    )  # fmt: skip
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> int:
    """Execute the chapters that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--full", action="store_true", help="renew the committed outputs")
    wanted, failed = parser.parse_args(), 0
    for path in chapters(wanted.names):
        start = time.perf_counter()
        try:
            notebook = execute(path, full=wanted.full)
        except CellExecutionError as error:
            failed += 1
            print(f"{path.name}: {error}", flush=True)
            continue
        if wanted.full:
            nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
