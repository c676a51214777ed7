"""Byte-level BPE: training, text to token ids and back, chat templates, other people's files.

`Tokenizer` wraps a `tiktoken.Encoding`, which does the merging. Here are the training by hand,
the special tokens, the chat template, and the reading of `tokenizer.json` and GGUF metadata
(GPT-2, Llama 3, Qwen, SmolLM2) into the ids that transformers gives. Files are saved in Hugging
Face's own format, so that the same folder opens there.

Left out: SentencePiece (Llama 2), WordPiece and Unigram vocabularies; adding begin-of-text by
itself (write the token's text into the prompt); training on more text than fits in memory.
"""

import heapq
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import regex
import tiktoken

from reasoning_from_scratch.tokenizer_files import (
    DIGIT_PATTERN,
    read_gguf,
    read_huggingface,
    to_huggingface,
)

SPECIAL_TOKENS = ("<|end|>", "<think>", "</think>", "<answer>", "</answer>")
# ChatML; a turn ends as a completion does.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LONG = 10_000  # tiktoken's regex runs out of stack on a much longer run of white space


def train_bpe(
    texts: Iterable[str], *, merges: int, pattern: str = DIGIT_PATTERN,
    special_tokens: Sequence[str] = (),
) -> list[tuple[int, int]]:  # fmt: skip
    """Learn byte-pair merges: join the most frequent adjacent pair of tokens, again and again.

    Args:
        texts:          what to learn from. No merge crosses the border of a piece.
        merges:         how many. Merge `i` makes token 256 + i; tokens 0 to 255 are the bytes.
        pattern:        regular expression whose matches are the pieces.
        special_tokens: cut out of the texts first, so that no merge contains a part of one.

    Returns:
        The pairs that were joined, in order. Of equally frequent pairs the smaller comes first.

    Raises:
        ValueError: the texts hold fewer merges than that.

    Source: Sennrich et al. 2016, algorithm 1; on bytes, Radford et al. 2019.
    """
    special = _any_of(special_tokens)
    pieces = Counter(
        piece
        for text in texts
        for part in special.split(_well_formed(text))[::2]
        for piece in regex.findall(pattern, part)
    )
    words = [(list(piece.encode()), times) for piece, times in pieces.items()]
    counts, homes = Counter(), defaultdict(set)  # how often a pair occurs, and in which words
    for home, (word, times) in enumerate(words):
        for pair in zip(word, word[1:], strict=False):
            counts[pair] += times
            homes[pair].add(home)
    # A pair's count may have fallen since it was put on the heap; then it goes back corrected.
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    learned: list[tuple[int, int]] = []
    while len(learned) < merges:
        if not heap:
            most = 256 + len(learned) + len(special_tokens)
            raise ValueError(
                f"texts hold {len(learned)} merges, expected {merges}: take vocab_size <= {most}"
            )
        count, best = heapq.heappop(heap)
        if counts[best] != -count:
            if counts[best]:
                heapq.heappush(heap, (-counts[best], best))
            continue
        new, grown = 256 + len(learned), set()
        for home in homes.pop(best):
            word, times = words[home]
            joined = _join(word, best, new)
            for pair in zip(word, word[1:], strict=False):
                counts[pair] -= times
            for pair in zip(joined, joined[1:], strict=False):
                counts[pair] += times
                if new in pair:
                    homes[pair].add(home)
                    grown.add(pair)
            words[home] = joined, times
        for pair in grown:
            heapq.heappush(heap, (-counts[pair], pair))
        learned.append(best)
    return learned


class Tokenizer:
    """Text to token ids and back.

    Args:
        encoding:       does the splitting and merging; its special tokens become ours.
        eos:            the special token that ends a completion.
        bos:            the one that begins a text, if there is one. `encode` never adds it.
        pad:            the one for padding; without it the end token's id stands in.
        chat_template:  Jinja template, the format in which models are published.
        normalization:  None or "NFC", applied to what lies between special tokens.
        ids:            the model's id of each of the encoding's tokens, where the two differ
                        (None: no id, the bytes are dropped). Left out: they are the same.
        after_normalization: special tokens to look for after normalizing, not before.
        unused:         the model's further ids that text never becomes, and what they decode to.

    Attributes:
        vocab_size:     one more than the largest id.
        special_tokens: their ids by their text.

    Raises:
        ValueError: eos, bos or pad is not a special token of the encoding.
    """

    def __init__(
        self, encoding: tiktoken.Encoding, *, eos: str, bos: str | None = None,
        pad: str | None = None, chat_template: str | None = CHATML,
        normalization: str | None = None, ids: Mapping[int, int | None] | None = None,
        after_normalization: Sequence[str] = (), unused: Mapping[int, bytes] | None = None,
    ) -> None:  # fmt: skip
        self.encoding, self.chat_template = encoding, chat_template
        self.normalization, self.after_normalization = normalization, after_normalization
        self._ids = ids
        ours = ids or {}
        special = {text: encoding.encode_single_token(text) for text in encoding.special_tokens_set}
        self.special_tokens = {text: ours.get(i, i) for text, i in special.items()}
        for name, text in (("eos", eos), ("bos", bos), ("pad", pad)):
            if text not in self.special_tokens and (name == "eos" or text is not None):
                expected = ", ".join(map(repr, sorted(self.special_tokens))) or "(there are none)"
                raise ValueError(f"{name} is {text!r}, expected a special token: {expected}")
        self.eos, self.bos, self.pad = eos, bos, pad
        self.eos_id = self.special_tokens[eos]
        self.bos_id = None if bos is None else self.special_tokens[bos]
        self.pad_id = self.special_tokens[pad or eos]
        self._bytes = {ours.get(i, i): token for token, i in encoding._mergeable_ranks.items()}
        self._bytes.pop(None, None)
        self._bytes |= {i: text.encode() for text, i in self.special_tokens.items()}
        self._bytes |= unused or {}
        self.vocab_size = max(self._bytes) + 1
        early = [text for text in self.special_tokens if text not in after_normalization]
        self._early, self._late = _any_of(early), _any_of(after_normalization)
        self._dropped = {i for i, our_id in ours.items() if our_id is None}

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; special tokens in it are recognised, none are added.

        Half a surrogate pair, which is no character, is read as U+FFFD. Everything else comes back
        from `decode` as it was (after normalization, if there is one).
        """
        found: list[int] = []
        for i, part in enumerate(self._early.split(_well_formed(text))):
            if i % 2:
                found.append(self.special_tokens[part])
                continue
            if self.normalization:
                part = unicodedata.normalize(self.normalization, part)
            for j, piece in enumerate(self._late.split(part)):
                found += [self.special_tokens[piece]] if j % 2 else self._encode_ordinary(piece)
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, special tokens included.

        Bytes that are not UTF-8 and ids that no token has (a model's vocabulary may be padded)
        become U+FFFD: a model may sample either.
        """
        return b"".join(self._bytes.get(int(i), b"\xff") for i in ids).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        """Return the text of one token; part of a character shows as U+FFFD."""
        return self.decode([token])

    def render_chat(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
    ) -> str:
        """Return the prompt for `messages`, each {"role": …, "content": …}, as text to encode.

        Raises:
            ValueError: there is no chat template, or it refuses the messages.
        """
        if self.chat_template is None:
            raise ValueError("this tokenizer has no chat template: set tokenizer.chat_template")
        return _render(
            self.chat_template, messages=messages, add_generation_prompt=add_generation_prompt,
            bos_token=self.bos or "", eos_token=self.eos, pad_token=self.pad or "",
        )  # fmt: skip

    def _encode_ordinary(self, text: str) -> list[int]:
        """Split and merge text in which no special token is looked for."""
        too_long = len(text) > _LONG and any(len(run) > _LONG for run in re.findall(r"\s+", text))
        found = [] if too_long else self.encoding.encode_ordinary(text)
        if too_long or not self._dropped.isdisjoint(found):
            # The same piece by piece: bytes that have no token go before merging, not after.
            lost = {self.encoding.decode_single_token_bytes(i)[0] for i in self._dropped}
            found = []
            for piece in regex.findall(self.encoding._pat_str, text):
                kept = bytes(byte for byte in piece.encode() if byte not in lost)
                found += self.encoding._encode_single_piece(kept) if kept else []
        return found if self._ids is None else [self._ids.get(i, i) for i in found]

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int, pattern: str = DIGIT_PATTERN,
        special_tokens: Sequence[str] = SPECIAL_TOKENS, eos: str | None = None,
        **options: str | None,
    ) -> "Tokenizer":  # fmt: skip
        """Train a tokenizer: 256 bytes, then the merges, then the special tokens.

        Args:
            texts:          what to learn from.
            vocab_size:     tokens in all.
            pattern:        regular expression that cuts text into pieces. The default splits
                            words with the space before them, and every digit alone.
            special_tokens: in the order of their ids, at least one.
            eos:            the one that ends a completion; by default the first.
            options:        `bos`, `pad` and `chat_template` of the tokenizer.

        Raises:
            ValueError: vocab_size leaves no room for bytes and special tokens, or is more than
                the texts have merges for; there is no special token, an empty one, or one twice.
        """
        for name, value in (("texts", texts), ("special_tokens", special_tokens)):
            if isinstance(value, str):
                raise ValueError(f"{name} is the text {value!r:.60}, expected a list of texts")
        merges = vocab_size - 256 - len(special_tokens)
        if merges < 0:
            raise ValueError(
                f"vocab_size is {vocab_size}, expected at least {vocab_size - merges}: 256 bytes "
                f"and {len(special_tokens)} special tokens"
            )
        if not special_tokens or len({*special_tokens, ""}) <= len(special_tokens):
            raise ValueError(
                f"special_tokens is {special_tokens!r}, expected at least one, none empty or twice"
            )
        ranks = {bytes([i]): i for i in range(256)}
        tokens = list(ranks)
        pairs = train_bpe(texts, merges=merges, pattern=pattern, special_tokens=special_tokens)
        for left, right in pairs:
            tokens.append(tokens[left] + tokens[right])
            ranks[tokens[-1]] = len(tokens) - 1
        special = {text: 256 + merges + i for i, text in enumerate(special_tokens)}
        encoding = tiktoken.Encoding(
            "trained", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
        )
        return cls(encoding, eos=eos or special_tokens[0], **options)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers opens too.

        Raises:
            ValueError: the encoding's pattern has no equal there.
        """
        names = {"eos_token": self.eos, "bos_token": self.bos, "pad_token": self.pad}
        contents = to_huggingface(
            self.encoding, self._bytes, self.special_tokens, normalization=self.normalization,
            after_normalization=self.after_normalization, names=tuple(names.values()),
        )  # fmt: skip
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | names
        config |= {"chat_template": self.chat_template, "clean_up_tokenization_spaces": False}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("tokenizer.json", contents), ("tokenizer_config.json", config)):
            text = json.dumps(content, ensure_ascii=False, indent=1)
            (folder / name).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read what `save` wrote."""
        return cls.from_huggingface(folder)

    @classmethod
    def from_huggingface(cls, path: str | Path, *, eos: str | None = None) -> "Tokenizer":
        """Read a byte-level BPE `tokenizer.json` and the configuration files beside it.

        Args:
            path: the file, or the folder that holds it.
            eos:  the end token, where no file names it or another one is wanted.

        Raises:
            ValueError: the file asks for something that would be encoded differently here.
        """
        return cls(**read_huggingface(Path(path), eos))

    @classmethod
    def from_gguf(cls, fields: Mapping[str, object]) -> "Tokenizer":
        """Make the tokenizer that a GGUF file's metadata describes.

        Args:
            fields: the metadata by key: `tokenizer.ggml.…` and `tokenizer.chat_template`.

        Raises:
            ValueError: it is no byte-level BPE, or names a pre-tokenizer that is not known here.

        Source: the names mean what they do in llama.cpp; normalization, which llama.cpp leaves
        out, is that of the model's published `tokenizer.json`.
        """
        return cls(**read_gguf(fields))


def _join(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Replace `pair` in `word` by `new`, from the left."""
    joined, i = [], 0
    while i < len(word):
        if word[i] == pair[0] and i + 1 < len(word) and word[i + 1] == pair[1]:
            joined.append(new)
            i += 2
        else:
            joined.append(word[i])
            i += 1
    return joined


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern that captures any of `texts`, the longest where several would fit."""
    longest_first = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile(
        f"({'|'.join(map(re.escape, longest_first))})" if longest_first else r"((?!))"
    )


def _well_formed(text: str) -> str:
    """Join surrogate pairs and replace lone ones by U+FFFD, so that the text has a UTF-8 form."""
    if not re.search("[\ud800-\udfff]", text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _render(template: str, **values: object) -> str:
    """Render a Jinja chat template as transformers does, in a sandbox."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals |= {"raise_exception": refuse, "strftime_now": _strftime_now}
    try:
        return environment.from_string(template).render(**values)
    except TemplateError as error:
        raise ValueError(f"chat template: {error}") from None


def _strftime_now(form: str) -> str:
    """Return today's date in the form a template asks for."""
    return datetime.now().strftime(form)
