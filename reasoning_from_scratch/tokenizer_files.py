"""Other people's tokenizer files: `tokenizer.json` and GGUF metadata in, `tokenizer.json` out.

Both hold a byte-level BPE as a vocabulary and a list of merges; tiktoken wants a rank for each
token. The functions that read return the arguments of `Tokenizer`, and raise a ValueError for
whatever would be encoded differently than the file's own library does it.

Left out: SentencePiece, WordPiece, Unigram; post-processors (they add tokens, `encode` does not).
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tiktoken

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# SmolLM2 cuts every digit out before GPT-2's rule sees the text, so a digit also ends white space.
DIGIT_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
_MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN, LLAMA3_PATTERN = _MODERN % "", _MODERN % "{1,3}"
_COMPLETE = (GPT2_PATTERN, DIGIT_PATTERN, QWEN2_PATTERN, LLAMA3_PATTERN)  # leave no text unmatched

# What a GGUF file's pre-tokenizer name stands for: pattern, normalization, ignore_merges.
_GGUF_PRE = {
    "smollm": (DIGIT_PATTERN, None, False),
    "gpt-2": (GPT2_PATTERN, None, False),
    "llama-bpe": (LLAMA3_PATTERN, None, True),
    "qwen2": (QWEN2_PATTERN, "NFC", False),
    "deepseek-r1-qwen": (QWEN2_PATTERN, "NFC", False),
}

# GPT-2's table of the characters that stand for bytes in a vocabulary: printable Latin-1 stands
# for itself, the other 68 bytes are written from U+0100 on.
_PLAIN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PLAIN]
_BYTE = {chr(b): b for b in _PLAIN} | {chr(0x100 + i): b for i, b in enumerate(_OTHERS)}
_CHARACTER = {byte: character for character, byte in _BYTE.items()}


def read_huggingface(path: Path, eos: str | None) -> dict[str, object]:
    """Return the arguments of the `Tokenizer` that a `tokenizer.json`, or its folder, describes."""
    file = path / "tokenizer.json" if path.is_dir() else path
    data, config = read_json(file), {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (file.parent / name).exists():
            config |= read_json(file.parent / name)
    names = {"eos": config.get("eos_token"), "bos": config.get("bos_token")}
    names["pad"] = config.get("pad_token")
    names = {
        k: token["content"] if isinstance(token, dict) else token for k, token in names.items()
    }
    names["eos"] = eos or names["eos"]
    if names["eos"] is None:
        raise ValueError(f"eos is None, and no file beside {file} names the end token: give it")
    chat_template = config.get("chat_template")
    if isinstance(chat_template, list):
        chat_template = {one["name"]: one["template"] for one in chat_template}.get("default")
    if (file.parent / "chat_template.jinja").exists():
        chat_template = (file.parent / "chat_template.jinja").read_text(encoding="utf-8")

    model, added = data.get("model", {}), data.get("added_tokens", [])
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise ValueError(f"{file}: model type is {model.get('type')!r}, expected 'BPE'")
    for name in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(f"{file}: {name} is {model[name]!r}, expected none (byte-level BPE)")
    for token in added:
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag):
                raise ValueError(f"{file}: {flag} of {token['content']!r} is on, expected off")
    special = {token["content"]: token["id"] for token in added}
    vocabulary = {text: i for text, i in model["vocab"].items() if text not in special}
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    pattern = _pattern(file, data.get("pre_tokenizer"))
    return {
        **names,
        **_assemble(vocabulary, merges, special, pattern, bool(model.get("ignore_merges"))),
        "chat_template": chat_template,
        "normalization": _normalization(file, data.get("normalizer")),
        "after_normalization": [token["content"] for token in added if token.get("normalized")],
    }


def read_gguf(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of the `Tokenizer` that a GGUF file's metadata describes."""
    get = {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()}.get
    if get("model") != "gpt2" or get("pre") not in _GGUF_PRE:
        raise ValueError(
            f"tokenizer.ggml.model is {get('model')!r} and tokenizer.ggml.pre {get('pre')!r}, "
            f"expected 'gpt2' and one of {', '.join(map(repr, _GGUF_PRE))}"
        )
    for name in ("tokens", "token_type", "merges"):
        if not get(name):
            raise ValueError(f"tokenizer.ggml.{name} is {get(name)!r}, expected a list")
    pattern, normalization, ignore_merges = _GGUF_PRE[get("pre")]
    tokens, kinds = list(get("tokens")), list(get("token_type"))
    special = {text: i for i, text in enumerate(tokens) if kinds[i] in (3, 4)}  # control, user's
    names = {}
    for name, key in (("eos", "eos"), ("bos", "bos"), ("pad", "padding")):
        token = get(f"{key}_token_id")
        names[name] = None if token is None else tokens[token]
    vocabulary = {text: i for i, text in enumerate(tokens) if kinds[i] == 1}
    merges = [merge.split(" ") for merge in get("merges")]
    return {
        **names,
        **_assemble(vocabulary, merges, special, pattern, ignore_merges),
        "chat_template": get("tokenizer.chat_template"),
        "normalization": normalization,
    }


def to_huggingface(
    encoding: tiktoken.Encoding, tokens: Mapping[int, bytes], special: Mapping[str, int], *,
    normalization: str | None, after_normalization: Sequence[str], names: Sequence[str | None],
) -> dict[str, object]:  # fmt: skip
    """Return the contents of a `tokenizer.json` that encodes as `encoding` does.

    Args:
        encoding:            splits and merges.
        tokens:              all tokens' bytes by their ids, which may differ from the encoding's.
        special:             special tokens' ids by their text.
        normalization:       None or "NFC".
        after_normalization: special tokens to look for after normalizing.
        names:               the tokens that end, begin and pad.

    Raises:
        ValueError: the tokenizers library would read the encoding's pattern differently.
    """
    if re.search(r"\{\d*,?\d*\}\+", encoding._pat_str):
        raise ValueError(
            f"the encoding's pattern is {encoding._pat_str!r}, expected one without a possessive "
            "{…}+, which the tokenizers library reads as a repetition"
        )
    ranks = encoding._mergeable_ranks
    parts = [_parts(token, ranks) for token in sorted(ranks, key=ranks.__getitem__)]
    added = [
        {
            "id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": text in after_normalization,
            # transformers' skip_special_tokens hides what is "special": leave <think> in sight.
            "special": text in names or text.startswith("<|"),
        }
        for text, i in sorted(special.items(), key=lambda item: item[1])
    ]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    level |= {"use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": encoding._pat_str}}
    split |= {"behavior": "Removed", "invert": True}  # keep the matches and nothing else
    taken = set(special.values())
    vocabulary = {_written(token): i for i, token in tokens.items() if i not in taken} | special
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": normalization and {"type": normalization},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": any(len(part) > 2 for part in parts),
            "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            "merges": [[_written(half) for half in part] for part in parts if len(part) == 2],
        },
    }  # fmt: skip


def read_json(file: Path) -> dict:
    """Read a JSON object, or say which file is not one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected a JSON object")
    return content


def _assemble(
    vocabulary: Mapping[str, int], merges: Iterable[Sequence[str]], special: Mapping[str, int],
    pattern: str, ignore_merges: bool,
) -> dict[str, object]:  # fmt: skip
    """Turn a published vocabulary and its merges into a tiktoken encoding and a table of ids."""
    try:
        ids = {bytes(_BYTE[c] for c in text): i for text, i in vocabulary.items()}
        pairs = [tuple(bytes(_BYTE[c] for c in half) for half in merge) for merge in merges]
    except KeyError as error:
        raise ValueError(f"the vocabulary has {error.args[0]!r}, expected byte-level BPE") from None
    if odd := [pair for pair in pairs if len(pair) != 2]:
        raise ValueError(f"merge {odd[0]!r} has {len(odd[0])} parts, expected two tokens")
    made: dict[bytes, int] = {}  # when a token is first made
    order: dict[tuple[bytes, ...], int] = {}
    for i, pair in enumerate(pairs):
        made.setdefault(b"".join(pair), i)
        order.setdefault(pair, i)
    if missing := [token for token in made if token not in ids]:
        raise ValueError(f"a merge makes {missing[0]!r}, which is not in the vocabulary")
    if ignore_merges:  # a piece that is a token is taken whole, whether or not merging makes it
        for token, i in ids.items():
            made.setdefault(token, len(pairs) + i)
    longer = sorted((token for token in made if len(token) > 1), key=made.__getitem__)
    singles = [bytes([i]) for i in range(256)]
    if [ids[token] for token in longer] == sorted(ids[token] for token in longer):
        free = 1 + max([*ids.values(), *special.values()])  # tiktoken needs a rank for every byte
        ranks = {byte: ids.get(byte, free + i) for i, byte in enumerate(singles)}
        ranks |= {token: ids[token] for token in longer}  # an id can serve as rank
        encoded = dict(special)
    else:
        ranks = {token: i for i, token in enumerate([*singles, *longer])}
        encoded = {text: len(ranks) + i for i, text in enumerate(special)}
    unreachable = _unreachable(ranks, order)
    if not ignore_merges:
        for token in unreachable:
            del ranks[token]
    table = {rank: ids.get(token) for token, rank in ranks.items()}
    table |= {encoded[text]: i for text, i in special.items()}
    encoding = tiktoken.Encoding(
        "published", pat_str=pattern, mergeable_ranks=ranks, special_tokens=encoded
    )
    return {
        "encoding": encoding,
        "ids": {rank: i for rank, i in table.items() if rank != i},
        "unused": {i: token for token, i in ids.items() if token not in ranks},
    }


def _unreachable(ranks: Mapping[bytes, int], order: Mapping[tuple[bytes, ...], int]) -> list[bytes]:
    """Return the tokens that merging never makes; refuse ranks that would merge something else.

    tiktoken joins any two neighbours whose bytes together are a token, Hugging Face only listed
    pairs, in the list's order. What is merged within the bytes of a token does not depend on what
    stands around them, so the two agree on every text if they agree on every token alone.
    """
    unreachable, last = [], -1
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = _parts(token, ranks)
        if len(parts) > 2:
            unreachable.append(token)
        elif len(parts) == 2:
            place = order.get(tuple(parts), -1)
            if place <= last:
                raise ValueError(
                    f"tiktoken would make {token!r} of {parts[0]!r} and {parts[1]!r}, "
                    "expected that pair in the list of merges, in the order of the tokens made"
                )
            last = place
    return unreachable


def _parts(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Merge the bytes of `token` as tiktoken does, until two parts are left or nothing merges."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, math.inf) for a, b in zip(parts, parts[1:], strict=False)]
        best = min(joined)
        if best == math.inf:
            break
        i = joined.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _written(token: bytes) -> str:
    """Return the characters that stand for `token` in a vocabulary file."""
    return "".join(_CHARACTER[byte] for byte in token)


def _normalization(file: Path, normalizer: Mapping | None) -> str | None:
    """Return None or "NFC" for the `normalizer` of a tokenizer.json."""
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    kinds = [step["type"] for step in steps]
    if set(kinds) - {"NFC"}:
        raise ValueError(f"{file}: normalizer is {kinds}, expected none or NFC")
    return "NFC" if kinds else None


def _pattern(file: Path, pre_tokenizer: Mapping | None) -> str:
    """Return one regular expression whose matches are the pieces that a `pre_tokenizer` makes."""
    first = pre_tokenizer or {"type": None}
    *before, last = first["pretokenizers"] if first["type"] == "Sequence" else [first]
    kinds = [step["type"] for step in before]
    if last["type"] == "ByteLevel" and not last.get("add_prefix_space", True):
        own = last.get("use_regex", True)
        if own and not before:
            return GPT2_PATTERN
        if own and kinds == ["Digits"] and before[0].get("individual_digits"):
            return DIGIT_PATTERN
        if not own and kinds == ["Split"] and "Regex" in before[0]["pattern"]:
            pattern = before[0]["pattern"]["Regex"]
            behavior = before[0]["behavior"], before[0]["invert"]
            if behavior == ("Removed", True) or (
                behavior[0] == "Isolated" and pattern in _COMPLETE
            ):
                return pattern
            if behavior == ("Isolated", False):  # what lies between two matches is a piece, too
                return f"{pattern}|(?:(?!{pattern})[\\s\\S])+"
    raise ValueError(
        f"{file}: pre_tokenizer is {pre_tokenizer}, expected ByteLevel without add_prefix_space, "
        "alone or after individual Digits, or without its own regex after an isolating Split"
    )
