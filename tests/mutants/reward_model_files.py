"""Plausible mistakes in reward_model_files.py."""

MUTANTS = {
    "save_reward_model": {
        "any model will do": ('    check_type("model", model, ScalarHead)\n', ""),
        "the bias is not kept": (
            "for name, p in model.score.named_parameters()}",
            'for name, p in model.score.named_parameters() if name == "weight"}',
        ),
        "whatever is there is overwritten": (
            "if path.exists() and not _is_reward_model(path):",
            "if False:",
        ),
        "an earlier one stays beside it": ("shutil.rmtree(old, ignore_errors=True)", "pass"),
        "what is half written is left behind": (
            "shutil.rmtree(new, ignore_errors=True)\n        raise",
            "raise",
        ),
        "the earlier one is gone before the later one is there": (
            "new.mkdir(parents=True)",
            "new.mkdir(parents=True); shutil.rmtree(path, ignore_errors=True)",
        ),
    },
    "load_reward_model": {
        "the head stays at 0": ("parameter.data.copy_(head[name])", "pass"),
        "a bias may be missing": ("if set(head) != set(expected):", "if not set(head):"),
        "another body's head is taken": (
            "check_shape(f",
            "head[name] = head[name].new_ones(parameter.shape); check_shape(f",
        ),
        "a language model is a reward model with nothing to say": (
            "if not (path / HEAD).is_file():",
            "if not path.exists():",
        ),
    },
    "_is_reward_model": {
        "an empty folder is refused": ("in (set(), {BODY, HEAD})", "in ({BODY, HEAD},)"),
        "any folder will do": ("in (set(), {BODY, HEAD})", "!= {None}"),
        "a file is a folder": ("path.is_dir() and ", "path.is_file() or "),
    },
}
