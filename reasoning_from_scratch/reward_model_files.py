"""A reward model on disk: its body as a published language model, and its head beside it.

    body/                     what `save_pretrained` writes: config, weights, tokenizer
    score_head.safetensors    the head's weight and bias

A critic, which is a `ScalarHead` too, is kept in the same way.
"""

import secrets
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from reasoning_from_scratch.checks import check_shape, check_type
from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.pretrained import load_pretrained, save_pretrained
from reasoning_from_scratch.tokenizer import Tokenizer

BODY, HEAD = "body", "score_head.safetensors"


def save_reward_model(model: ScalarHead, tokenizer: Tokenizer, path: str | Path) -> None:
    """Write a folder with the body as `save_pretrained` does, and the head beside it.

    The folder appears whole or not at all, and takes the place of an earlier reward model only.

    Raises:
        FileExistsError: path holds something else than an earlier reward model.
        ValueError: as `save_pretrained`, or the model is no `ScalarHead`.
    """
    check_type("model", model, ScalarHead)
    path = Path(path).resolve()
    if path.exists() and not _is_reward_model(path):
        raise FileExistsError(f"{path} is there and no reward model: choose another path")
    new, old = (path.with_name(f".{path.name}.{secrets.token_hex(4)}") for _ in range(2))
    new.mkdir(parents=True)
    try:
        save_pretrained(model.body, tokenizer, new / BODY)
        head = {name: p.detach().cpu().clone() for name, p in model.score.named_parameters()}
        save_file(head, new / HEAD)
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def load_reward_model(path: str | Path) -> tuple[ScalarHead, Tokenizer]:
    """Read what `save_reward_model` wrote, in float32 on the CPU.

    Raises:
        FileNotFoundError: there is no such folder, or a file that is needed is not in it.
        ValueError: a file is damaged, or the head is not of this body.
    """
    path = Path(path)
    if not (path / HEAD).is_file():
        if not path.exists():
            raise FileNotFoundError(f"no folder {path}")
        raise FileNotFoundError(f"no {HEAD} in {path}: it holds no reward model")
    body, tokenizer = load_pretrained(path / BODY)
    model = ScalarHead(body)
    try:
        head = load_file(path / HEAD)
    except SafetensorError as error:
        raise ValueError(f"{path / HEAD} is damaged or cut short: {error}") from None
    expected = dict(model.score.named_parameters())
    if set(head) != set(expected):
        raise ValueError(f"{path / HEAD} holds {sorted(head)}, expected {sorted(expected)}")
    for name, parameter in expected.items():
        check_shape(f"{path / HEAD}: {name}", head[name], parameter.shape, "by the body's width")
        parameter.data.copy_(head[name])
    return model, tokenizer


def _is_reward_model(path: Path) -> bool:
    """Tell whether `path` is an empty folder or holds what `save_reward_model` wrote, no more."""
    return path.is_dir() and {file.name for file in path.iterdir()} in (set(), {BODY, HEAD})
