"""Write the ledger's page: `python chapters/claims`. Named claims are run first, where runs are
missing: `python chapters/claims C4 C23`."""

import importlib
import sys

from ledger.command import main
from ledger.records import CRITERIA
from ledger.table import write_page
from ledger.verdict import load_criteria

if __name__ == "__main__":
    criteria = load_criteria(CRITERIA)
    for key in sys.argv[1:]:
        if key not in criteria or criteria[key].script is None:
            known = ", ".join(k for k, row in criteria.items() if row.script)
            sys.exit(f"claim is {key!r}, expected one with a script: {known}")
        main(importlib.import_module(criteria[key].script.removesuffix(".py")).CLAIM, [])
    write_page()
