"""The machinery of the claims ledger: arms, seeds, records, intervals, verdicts, the table.

verdict.py   what counts as an answer: estimates, parts, rules, correction
records.py   one line a run on disk, what is refused, a seed's arms side by side
runner.py    a claim's runs over the machine's cores, resumable; the command line of a script
models.py    bases, one GRPO arm, the measurements
levels.py    a level of accuracy, settled in tuning; where a curve passes it
drawing.py   what their figures have in common
table.py     the page that is made from the records
"""
