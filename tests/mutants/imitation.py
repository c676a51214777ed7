"""Plausible mistakes in imitation.py."""

MUTANTS = {
    "select_samples": {
        "wrong samples are imitated, too": (
            "if correct[row] >= 1 and finished[row]]",
            "if finished[row]]",
        ),
        "samples that are partly right are imitated": ("correct[row] >= 1", "correct[row] > 0"),
        "samples that were cut off are imitated: the student learns not to stop": (
            "if correct[row] >= 1 and finished[row]]",
            "if correct[row] >= 1]",
        ),
        "the longest instead of the shortest": (
            "key=lambda row: lengths[row])",
            "key=lambda row: -lengths[row])",
        ),
        "length in characters": (
            "key=lambda row: lengths[row])",
            "key=lambda row: len(texts[row]))",
        ),
        "equal lengths change places": (
            "rows.sort(key=lambda row: lengths[row])",
            "rows.sort(key=lambda row: (lengths[row], -row))",
        ),
        "always the shortest first": ('if keep == "shortest":', "if True:"),
        "the shortest of all samples, right or not, or nothing": (
            "rows.sort(key=lambda row: lengths[row])",
            "rows = [row for row in rows if lengths[row] == min(lengths)]",
        ),
        "duplicates stay": ('if duplicates == "drop":', "if False:"),
        "duplicates always go": ('if duplicates == "drop":', "if True:"),
        "of equal texts the last one stays": (
            "first.setdefault(texts[row], row)",
            "first[texts[row]] = row",
        ),
        "a text that comes twice goes altogether": (
            "rows = list(first.values())",
            "rows = [row for row in rows if [texts[i] for i in rows].count(texts[row]) == 1]",
        ),
        "duplicates use up the places of a prompt": (
            '    if duplicates == "drop":',
            '    rows = rows[:per_prompt] if per_prompt else rows\n    if duplicates == "drop":',
        ),
        "duplicates go before the shortest is sought": (
            '    if keep == "shortest":',
            '    if duplicates == "drop":\n'
            "        rows = list({texts[i]: i for i in reversed(rows)}.values())[::-1]\n"
            '    if keep == "shortest":',
        ),
        "texts are equal but for white space at their ends": (
            "first.setdefault(texts[row], row)",
            "first.setdefault(texts[row].strip(), row)",
        ),
        "one more than per_prompt": ("rows[:per_prompt] if", "rows[: per_prompt + 1] if"),
        "no cap on what an easy prompt gives": (
            "rows[:per_prompt] if per_prompt else rows",
            "rows",
        ),
        "with per_prompt=0 nothing is kept": (
            "rows[:per_prompt] if per_prompt else rows",
            "rows[:per_prompt]",
        ),
        "the last ones before the first": (
            "return rows[:per_prompt] if per_prompt else rows",
            "return rows[-per_prompt:]",
        ),
        "prompts that are always solved stay": ('if all_right == "drop" and', "if False and"),
        "prompts that are always solved always go": ('if all_right == "drop" and', "if"),
        "prompts that are solved at all go": (
            'if all_right == "drop" and len(rows) == len(texts):',
            'if all_right == "drop" and rows:',
        ),
        "whether all are right is asked after the duplicates went": (
            "len(rows) == len(texts):",
            "len({texts[row] for row in rows}) == len(texts):",
        ),
    },
    "sample_examples": {
        "interleaved groups: a text belongs to another problem": (
            "owners = [problem for problem in batch for _ in range(s.group_size)]",
            "owners = batch * s.group_size",
        ),
        "the last batch is left out": (
            "for first in range(0, len(problems), width):",
            "for first in range(0, max(1, len(problems) - width + 1), width):",
        ),
        "each batch gives the same samples": (
            "        with precision(generator.device):",
            "        generator.manual_seed(0)\n        with precision(generator.device):",
        ),
        "sampled at another temperature": ("temperature=s.temperature", "temperature=1.0"),
        "stop strings are forgotten": (" stop=s.stop,", ""),
        "of a prompt that comes twice only the last samples count": (
            "found.setdefault(problem.prompt, []).append(sampled)",
            "found[problem.prompt] = [*found.get(problem.prompt, ())][1 - s.group_size :]"
            " + [sampled]",
        ),
        "the settings of the choice are forgotten": (
            "keep=s.keep, per_prompt=s.per_prompt,\n            "
            "duplicates=s.duplicates, all_right=s.all_right,",
            "",
        ),
        "a prompt counts as solved by a sample that was cut off": (
            "any(correct >= 1 and ended for",
            "any(correct >= 1 for",
        ),
        "the numbers are of what was kept, not of what was sampled": (
            "for group in found.values() for sampled in group]",
            "for group in found.values() for sampled in group if sampled[1] >= 1]",
        ),
        "length of the last sample for each that is kept": (
            "kept += [group[row][2] for row in rows]",
            "kept += [group[-1][2] for row in rows]",
        ),
    },
    "imitate": {
        "every round starts from the original weights": (
            'copy.deepcopy(student.state_dict()) if s.start == "original" else None',
            "copy.deepcopy(student.state_dict())",
        ),
        "start='original' is forgotten": ("if original is not None:", "if False:"),
        "what is kept as the original moves with the student": (
            "copy.deepcopy(student.state_dict())",
            "student.state_dict()",
        ),
        "the student is reset before it is sampled": (
            "        part = Round(run, s, index, done)",
            "        student.load_state_dict(original or student.state_dict())\n"
            "        part = Round(run, s, index, done)",
        ),
        "every round has the same problems": (
            "problems[index * s.prompts :]",
            "problems[: s.prompts]",
        ),
        "a round samples the problems of the earlier ones, too": (
            "problems[index * s.prompts :]",
            "problems",
        ),
        "every round draws the same random numbers": (
            "manual_seed(1_000_003 * s.seed + index)",
            "manual_seed(1_000_003 * s.seed)",
        ),
        "the samples do not depend on the seed": (
            "manual_seed(1_000_003 * s.seed + index)",
            "manual_seed(index)",
        ),
        "the teacher is never asked": (
            "(student, tokenizer) if teacher is None else teacher",
            "(student, tokenizer)",
        ),
        "the teacher is trained, not the student": (
            "train_sft(student, tokenizer, examples",
            "train_sft(sampler[0], tokenizer, examples",
        ),
        "the teacher's tokenizer reads the examples": (
            "train_sft(student, tokenizer, examples",
            "train_sft(student, sampler[1], examples",
        ),
        "the caller's score is forgotten": ("score or task.score", "task.score"),
        "what is too long is handed on": ("if fits(student, tokenizer, example)]", "]"),
        "passes over what was chosen, not over what is trained on": (
            "s.batch / len(examples)",
            "s.batch / len(chosen)",
        ),
        "what a stopped run had sampled is sampled again": (
            "known = part.saved_examples()",
            "known = None",
        ),
        "a round has all the steps of the run": (
            "known = part.saved_examples()",
            "known, one_round = part.saved_examples(), replace(s, rounds=1)",
        ),
    },
    "Round.restore": {
        "a round goes on from the moments of the one before": (
            "if not self.begun:",
            "if self.of_all.start == 'never':",
        )
    },
    "Round.end_step": {
        "every round counts from 0": ("self.before + step, line", "step, line"),
        "the numbers of sampling stand in every line": (
            "(self.numbers if step == 0 else {})",
            "self.numbers",
        ),
        "and in none": ("(self.numbers if step == 0 else {})", "{}"),
    },
    "fits": {
        "the end token is not counted": (") + 1\n", ")\n"),
        "one token less than there is room for": ("tokens <= student", "tokens < student"),
        "the prompt is not counted": ("for text in example)", "for text in example[1:])"),
    },
}
