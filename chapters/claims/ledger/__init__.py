"""The machinery of the claims ledger: arms, seeds, records, intervals, verdicts, the table.

verdict.py   what counts as an answer: estimates, parts, rules, correction
records.py   one line a run on disk, what is refused, a seed's arms side by side
runner.py    a claim's runs over the machine's cores, resumable; the command line of a script
models.py    bases, one GRPO arm, the measurements
table.py     the page that is made from the records
"""
