"""The tokenizer: merges worked by hand, a naive reference, and transformers' own ids."""

import copy
import inspect
import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import tiktoken
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reasoning_from_scratch.pretrained import find_smollm2
from reasoning_from_scratch.tokenizer import SPECIAL_TOKENS, Tokenizer

# No verdict on speed: the machine may be busy.
PATIENT = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Characters that Unicode 14 knows: younger ones are letters to some libraries and not to others.
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=40) | st.text(
    "ab 1 2\n\t'sSt\x05\x1c\xa0é日🙂\u0301²ſ-<|", max_size=40
)
SAMPLES = [
    "The quick brown fox, it's SHE'LL they've 'd don't.",
    "def f(x):\n\treturn x[1:]  # 3.14\r\n\r\n    pass\n",
    "1234567890 12 123 1234 12345  3,456.78 x2y ½²³ ٣٤ Ⅷ",
    "   a  b \n\n c   \n  7  8",
    "naïve é e\u0301 ñ 日本語テキスト 한국어 🙂👩‍👩‍👧 \U0001f1e9\U0001f1ea",
    "\x00\x01\x05\x7f\x85\u2028\u200b\ufeff\xa0\u3000",
    "",
    "aaaaaaaaaaaaaaaaaaaaa---------====((((",
]
CODE = inspect.getsource(json.decoder) + inspect.getsource(inspect)[:30_000]
CORPUS = [CODE, *["12", "123", "1234", "12345"] * 40, *SAMPLES * 3]


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(CORPUS, vocab_size=700)


@PATIENT
@given(TEXTS)
def test_encode_is_tiktokens_own_and_decode_gives_the_text_back(trained, text):
    text = f"{text}<think>{text}</think>"
    found = trained.encode(text)
    assert found == trained.encoding.encode(text, allowed_special="all")
    assert trained.decode(found) == text


def test_merges_stay_inside_words_and_digits_stand_alone(trained):
    assert [trained.token_text(i) for i in trained.encode(" return 1234 +5")] == [
        " return", " ", "1", "2", "3", "4", " +", "5",
    ]  # fmt: skip
    for i in range(256, trained.vocab_size - len(SPECIAL_TOKENS)):
        text = trained.token_text(i)
        assert " " not in text.strip(" ") and not any(c in "0123456789" for c in text)


def test_special_tokens_are_recognised_in_text_and_never_merged_with_it():
    texts = ["a<think>b</think>c<think>b"] * 5
    tokenizer = Tokenizer.train(texts, vocab_size=261)
    assert tokenizer.special_tokens == {text: 256 + i for i, text in enumerate(SPECIAL_TOKENS)}
    found = tokenizer.encode("a<think>b</think><|end|>")
    assert found == [97, 257, 98, 258, 256]
    with pytest.raises(ValueError, match="texts hold 0 merges, expected 1"):
        Tokenizer.train(texts, vocab_size=262)  # between special tokens stands one letter each


def test_of_two_special_tokens_that_fit_the_longer_is_taken():
    tokenizer = Tokenizer.train([], vocab_size=259, special_tokens=["<a>", "<a><b>", "<b>"])
    assert tokenizer.encode("<a><b><a>x<b>") == [257, 256, 120, 258]


def test_what_is_no_text_becomes_the_replacement_character(trained):
    assert trained.encode("a\ud83d") == trained.encode("a\ufffd")  # half a surrogate pair
    assert trained.encode("\ud83d\ude42") == trained.encode("🙂")  # both halves
    assert trained.decode([0xF0, 0x9F]) == trained.token_text(0xF0) == "\ufffd"
    assert trained.decode([97, 10_000_000, 98]) == "a\ufffdb"  # padding of a model's vocabulary


@pytest.mark.parametrize("character", [" ", "\n", "a"])
def test_a_million_equal_characters_are_encoded(trained, character):
    text = character * 1_000_000 + "a"
    assert trained.decode(trained.encode(text)) == text


def test_piece_by_piece_encoding_equals_tiktokens_at_once(trained, monkeypatch):
    expected = [trained.encode(text) for text in CORPUS]
    monkeypatch.setattr("reasoning_from_scratch.tokenizer._LONG", 0)
    assert [trained.encode(text) for text in CORPUS] == expected


def test_any_tiktoken_encoding_will_do():
    ranks = {bytes([i]): i for i in range(256)}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"(?s:.)", mergeable_ranks=ranks, special_tokens={"<e>": 300, "<b>": 299}
    )
    tokenizer = Tokenizer(encoding, eos="<e>", bos="<b>", pad="<b>")
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (301, 300)
    assert (tokenizer.bos_id, tokenizer.pad_id) == (299, 299)
    assert copy.deepcopy(tokenizer).encode("é<e>") == [0xC3, 0xA9, 300]
    with pytest.raises(ValueError, match="eos is 'x', expected a special token: '<b>', '<e>'"):
        Tokenizer(encoding, eos="x")
    with pytest.raises(ValueError, match="bos is 'x', expected a special token"):
        Tokenizer(encoding, eos="<e>", bos="x")


@pytest.mark.parametrize("size, special, message", [
    (260, SPECIAL_TOKENS, "vocab_size is 260, expected at least 261: 256 bytes and 5"),
    (300, (), "special_tokens is .*, expected at least one"),
    (300, ("<a>", "<a>"), "none empty or twice"),
    (300, ("<a>", ""), "none empty or twice"),
])  # fmt: skip
def test_train_refuses_a_vocabulary_without_room_or_end(size, special, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.train(["abc abc"], vocab_size=size, special_tokens=special)


# Saved files
def test_a_saved_tokenizer_opens_here_and_in_transformers(trained, tmp_path):
    trained.save(tmp_path)
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.encoding._mergeable_ranks == trained.encoding._mergeable_ranks
    assert ours.special_tokens == trained.special_tokens
    assert (ours.eos, ours.bos, ours.pad) == (trained.eos, trained.bos, trained.pad)
    assert theirs.eos_token_id == trained.eos_id and len(theirs) == trained.vocab_size
    for text in [*CORPUS, "a<think> b</think><answer>35</answer><|end|>"]:
        found = trained.encode(text)
        assert ours.encode(text) == found == theirs.encode(text, add_special_tokens=False)
        assert theirs.decode(found, clean_up_tokenization_spaces=False) == text
    thought = trained.encode("<think>a</think><|end|>")
    assert theirs.decode(thought, skip_special_tokens=True) == "<think>a</think>"


def test_save_refuses_a_pattern_that_means_something_else_elsewhere(tmp_path):
    ranks = {bytes([i]): i for i in range(256)}
    encoding = tiktoken.Encoding(
        "x", pat_str=r"\p{N}{1,3}+|.", mergeable_ranks=ranks, special_tokens={"<e>": 256}
    )
    with pytest.raises(ValueError, match="possessive"):
        Tokenizer(encoding, eos="<e>").save(tmp_path)


# Published kinds of tokenizer, each trained small by Hugging Face's library
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def splitting(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(pattern), behavior, invert),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip


PUBLISHED = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]),
    "llama-bpe": splitting(CONTRACTIONS + r"\p{N}{1,3}" + REST),
    "qwen2": splitting(CONTRACTIONS + r"\p{N}" + REST),
    "words only": splitting(r"\p{L}+"),
    "matches only": splitting(r"\p{L}+|\P{L}", "removed", True),
}  # fmt: skip
ENDS = ["<|im_end|>", "<|im_start|>"]
CHAT = "{{ bos_token }}{% for m in messages %}{{ m['content'] | trim }}{% endfor %}"


def huggingface(kind, size=700):
    """Train a small tokenizer of a published kind."""
    theirs = tokenizers.Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    # Trained on longer pieces than it is used on: a split in the wrong place shows in the merges.
    theirs.pre_tokenizer, theirs.decoder = splitting(r"\s*\S+|\s+"), decoders.ByteLevel()
    if kind == "qwen2":
        theirs.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=ENDS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    theirs.train_from_iterator(CORPUS, trainer)
    theirs.pre_tokenizer = PUBLISHED[kind]
    return theirs


def as_dict(theirs):
    return json.loads(theirs.to_str())


def opened(data, folder, **options):
    """Open the contents of a tokenizer.json here."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    return Tokenizer.from_huggingface(folder, **{"eos": "<|im_end|>"} | options)


def as_gguf(data, pre):
    """Put the contents of a tokenizer.json as a GGUF file's metadata."""
    tokens = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in data["model"]["merges"]],
        "tokenizer.ggml.token_type": [3 if token in ENDS else 1 for token in tokens],
        "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.chat_template": CHAT,
    }  # fmt: skip


def assert_same(ours, theirs, text):
    expected = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == expected, (text, [ours.token_text(i) for i in expected])


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request, tmp_path_factory):
    """A published kind of tokenizer: theirs, and all our ways to it."""
    theirs, folder = huggingface(request.param), tmp_path_factory.mktemp("published")
    ours = [opened(as_dict(theirs), folder)]
    ours[0].save(folder / "again")
    ours.append(Tokenizer.load(folder / "again"))
    if " " not in request.param:
        ours.append(Tokenizer.from_gguf(as_gguf(as_dict(theirs), request.param)))
    return theirs, ours, tokenizers.Tokenizer.from_file(str(folder / "again" / "tokenizer.json"))


@PATIENT
@given(text=TEXTS)
def test_published_kinds_of_tokenizer_give_the_published_ids(published, text):
    theirs, ours, saved = published
    for one in ours:
        assert_same(one, theirs, text)
        assert_same(one, saved, text)


def test_published_kinds_agree_on_prose_code_digits_and_other_scripts(published):
    theirs, ours, saved = published
    for text in [*CORPUS, "<|im_start|>user\nhi<|im_end|>\n", "<|im_end|>\u0301e<|im_"]:
        for one in ours:
            assert_same(one, theirs, text)
            assert_same(one, saved, text)
            assert one.decode(one.encode(text)) == theirs.decode(
                theirs.encode(text).ids, skip_special_tokens=False
            )


def test_merges_may_be_written_as_strings(tmp_path):
    theirs = huggingface("gpt-2")
    data = as_dict(theirs)
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    ours = opened(data, tmp_path)
    for text in CORPUS:
        assert_same(ours, theirs, text)


def test_ids_need_not_follow_the_order_of_the_merges(tmp_path):
    data = as_dict(huggingface("smollm"))
    size = len(data["model"]["vocab"])
    assert size % 11  # so that what follows is a permutation
    turned = {text: (11 * i + 3) % size for text, i in data["model"]["vocab"].items()}
    data["model"]["vocab"] = dict(sorted(turned.items(), key=lambda item: item[1]))
    for token in data["added_tokens"]:
        token["id"] = turned[token["content"]]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    ours = opened(data, tmp_path)
    ours.save(tmp_path / "again")
    again = Tokenizer.load(tmp_path / "again")
    for text in [*CORPUS, "<|im_start|>hi<|im_end|>"]:
        assert_same(ours, theirs, text)
        assert_same(again, theirs, text)
        assert ours.decode(ours.encode(text)) == text
    assert ours.eos_id == turned["<|im_end|>"] and ours.vocab_size == size


def with_merges(merges, tokens, ignore_merges):
    data = as_dict(huggingface("gpt-2", size=258))  # bytes and special tokens, no merges
    for token in tokens:
        data["model"]["vocab"][token] = len(data["model"]["vocab"])
    data["model"] |= {"merges": [merge.split() for merge in merges], "ignore_merges": ignore_merges}
    return data


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a_token_that_no_merge_makes_counts_only_where_the_file_says_so(tmp_path, ignore_merges):
    data = with_merges(["a b", "ab c"], ["ab", "abc", "wxyz"], ignore_merges)
    theirs, ours = tokenizers.Tokenizer.from_str(json.dumps(data)), opened(data, tmp_path)
    ours.save(tmp_path / "again")
    for text in ("abc", "abcabc", "wxyz", "awxyz", " wxyz"):
        assert_same(ours, theirs, text)
        assert_same(Tokenizer.load(tmp_path / "again"), theirs, text)
    assert len(ours.encode("wxyz")) == (1 if ignore_merges else 4)
    from_gguf = Tokenizer.from_gguf(as_gguf(data, "llama-bpe" if ignore_merges else "gpt-2"))
    assert from_gguf.encode("wxyz") == ours.encode("wxyz")
    assert ours.token_text(data["model"]["vocab"]["wxyz"]) == "wxyz"
    assert ours.vocab_size == len(data["model"]["vocab"])


# Llama 3 comes from a list of ranks; every way to make a token of two others is listed as a merge.
def test_a_list_of_all_ways_to_make_each_token_is_read(tmp_path):
    theirs = huggingface("llama-bpe")
    data = as_dict(theirs)
    vocabulary = data["model"]["vocab"]
    data["model"]["merges"] = [
        [token[:i], token[i:]]
        for token in vocabulary
        if token not in ENDS
        for i in range(1, len(token))
        if token[:i] in vocabulary and token[i:] in vocabulary
    ]
    assert len(data["model"]["merges"]) > len(as_dict(theirs)["model"]["merges"])
    ours = opened(data, tmp_path)
    for text in CORPUS:
        assert_same(ours, theirs, text)


# "abcd" is listed as ab+cd, but b+c comes first, so that it ends as a, bc, d.
def test_a_listed_token_that_other_merges_prevent_is_never_made(tmp_path):
    data = with_merges(["b c", "a b", "c d", "ab cd"], ["bc", "ab", "cd", "abcd"], False)
    theirs, ours = tokenizers.Tokenizer.from_str(json.dumps(data)), opened(data, tmp_path)
    assert_same(ours, theirs, "abcd")
    assert [ours.token_text(i) for i in ours.encode("abcd")] == ["a", "bc", "d"]


# With b+c first, "abc" becomes a, bc and stays so: its only merge is ab+c. tiktoken, which looks at
# the bytes alone, would join a and bc. Such a list comes from no training.
@pytest.mark.parametrize("merges, ignore_merges", [
    (["b c", "a b", "ab c"], False),
    (["b c", "a b", "ab c"], True),
    (["a b", "ab c"], True),  # nor may tiktoken join b and c where no merge does
    (["a bc", "a b", "c d", "ab c", "b c"], False),  # "abc" looks first, but comes after "cd"
])  # fmt: skip
def test_merges_that_tiktoken_would_do_otherwise_are_refused(tmp_path, merges, ignore_merges):
    data = with_merges(merges, ["ab", "bc", "cd", "abc"], ignore_merges)
    with pytest.raises(ValueError, match="expected that pair in the list of merges"):
        opened(data, tmp_path)


def test_bytes_without_a_token_are_dropped_before_merging(tmp_path):
    data = as_dict(huggingface("gpt-2"))
    del data["model"]["vocab"]["ą"]  # GPT-2's character for the byte 5
    vocabulary = data["model"]["vocab"]
    data["model"]["vocab"] = {text: i for i, text in enumerate(vocabulary)}
    for token in data["added_tokens"]:
        token["id"] = data["model"]["vocab"][token["content"]]
    theirs, ours = tokenizers.Tokenizer.from_str(json.dumps(data)), opened(data, tmp_path)
    for text in ("de\x05f ret\x05urn", "\x05", "def\x05", "a\x05<|im_end|>"):
        assert_same(ours, theirs, text)
    assert ours.decode(ours.encode("de\x05f")) == "def"
    assert ours.vocab_size == len(vocabulary)


def test_added_tokens_are_looked_for_before_or_after_normalization(tmp_path):
    theirs = huggingface("qwen2")
    theirs.add_tokens([
        tokenizers.AddedToken("<think>", normalized=False, special=False),
        tokenizers.AddedToken("<late>", normalized=True, special=False),
    ])  # fmt: skip
    ours = opened(as_dict(theirs), tmp_path)
    ours.save(tmp_path / "again")
    # U+0338 after ">" composes to "≯", which ends the token unless it was cut out before
    for text in ("<think>\u0338", "<late>\u0338", "a<late><think>e\u0301", "<late<think>>"):
        assert_same(ours, theirs, text)
        assert_same(Tokenizer.load(tmp_path / "again"), theirs, text)


@pytest.mark.parametrize("change, message", [
    ({"model": {"type": "WordPiece"}}, "model type is 'WordPiece'"),
    ({"model": {"byte_fallback": True}}, "byte_fallback is True"),
    ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
    ({"normalizer": {"type": "Lowercase"}}, "normalizer is .*Lowercase"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer is .*Whitespace"),
    ({"pre_tokenizer": None}, "pre_tokenizer is None"),
    ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "add_prefix_space"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]}}, "Digits"),
    ({"added_tokens": [{"content": "<m>", "id": 900, "lstrip": True}]}, "lstrip of '<m>'"),
    ({"model": {"vocab": {"日": 0}}}, "has '日', expected byte-level BPE"),
    ({"model": {"vocab": {"a": 0}, "merges": ["a b"]}}, "which is not in the vocabulary"),
    ({"model": {"merges": ["a b c"]}}, "merge .* expected two tokens"),
])  # fmt: skip
def test_what_would_be_encoded_differently_is_refused(tmp_path, change, message):
    data = as_dict(huggingface("gpt-2", size=300))
    for name, value in change.items():
        data[name] = data[name] | value if isinstance(value, dict) and name == "model" else value
    with pytest.raises(ValueError, match=message):
        opened(data, tmp_path)


def test_an_end_token_must_be_named_somewhere(tmp_path):
    data = as_dict(huggingface("gpt-2", size=300))
    with pytest.raises(ValueError, match="names the end token"):
        opened(data, tmp_path, eos=None)
    config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = opened(data, tmp_path, eos=None)
    assert (ours.eos, ours.bos, ours.chat_template) == ("<|im_end|>", "<|im_start|>", None)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer.json is not readable as JSON"):
        Tokenizer.from_huggingface(tmp_path)


def test_gguf_metadata_of_another_kind_is_refused():
    fields = as_gguf(as_dict(huggingface("gpt-2", size=300)), "gpt-2")
    for change in ({"tokenizer.ggml.pre": "tekken"}, {"tokenizer.ggml.model": "llama"}):
        with pytest.raises(ValueError, match="'gpt2' and one of 'smollm', 'gpt-2'"):
            Tokenizer.from_gguf(fields | change)
    with pytest.raises(ValueError, match="tokenizer.ggml.merges is None, expected a list"):
        Tokenizer.from_gguf(fields | {"tokenizer.ggml.merges": None})


# Chat templates
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
LAYOUT = """
    {%- for message in messages %}
        {%- if message.role == 'tool' %}{{ message | tojson }}{% break %}{% endif %}
        {{ message.content }}
    {% endfor %}
"""
USER = {"role": "user", "content": " What is é < 3? "}
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "Yes\n"}


@pytest.mark.parametrize("template", [None, SMOLLM2, LLAMA3, LAYOUT])
@pytest.mark.parametrize("messages", [[USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, USER]])
@pytest.mark.parametrize("prompt", [True, False])
def test_chats_are_rendered_as_transformers_renders_them(
    trained, tmp_path, template, messages, prompt
):
    ours = Tokenizer(trained.encoding, eos="<|end|>", bos="<think>")
    ours.chat_template = template or ours.chat_template
    ours.save(tmp_path)
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    messages = [*messages, {"role": "tool", "content": "é\"<'"}]
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert ours.render_chat(messages, add_generation_prompt=prompt) == expected
    assert Tokenizer.load(tmp_path).render_chat(messages, add_generation_prompt=prompt) == expected


def test_the_default_chat_is_chatml_with_the_own_end_token(trained):
    assert trained.render_chat([{"role": "user", "content": "hi"}]) == (
        "<|im_start|>user\nhi<|end|>\n<|im_start|>assistant\n"
    )


def test_a_chat_template_beside_the_file_counts_and_its_refusals_are_value_errors(
    trained, tmp_path
):
    trained.save(tmp_path)
    template = "{{ raise_exception('no ' + messages[0].role) }}"
    (tmp_path / "chat_template.jinja").write_text(template)
    ours = Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="chat template: no user"):
        ours.render_chat([USER])
    for broken in ("{% if %}", "{{ ''.__class__.__mro__ }}", "{{ nothing.at.all }}"):
        ours.chat_template = broken
        with pytest.raises(ValueError, match="chat template"):
            ours.render_chat([USER])
    ours.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        ours.render_chat([USER])


# The real thing
@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2's tokenizer from its GGUF file, and as published, put together from that file."""
    gguf = pytest.importorskip("gguf")
    try:
        reader = gguf.GGUFReader(find_smollm2())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tokens = fields["tokenizer.ggml.tokens"]
    theirs = tokenizers.Tokenizer(models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]],
    ))  # fmt: skip
    theirs.pre_tokenizer, theirs.decoder = PUBLISHED["smollm"], decoders.ByteLevel()
    theirs.add_special_tokens(tokens[:17])
    return Tokenizer.from_gguf(fields), theirs


@PATIENT
@given(text=TEXTS)
def test_smollm2_from_gguf_gives_the_published_ids(smollm2, text):
    assert_same(*smollm2, text)


def test_smollm2_agrees_on_longer_texts_and_splits_digits(smollm2, tmp_path):
    ours, theirs = smollm2
    published = opened(as_dict(theirs), tmp_path)
    for text in [*CORPUS, "<|im_start|>user\n12 + 345<|im_end|>\n"]:
        assert_same(ours, theirs, text)
        assert_same(published, theirs, text)
    assert [ours.token_text(i) for i in ours.encode("it's 2024")] == ["it", "'s", " ", *"2024"]
    assert (ours.eos, ours.eos_id, ours.bos_id, ours.vocab_size) == ("<|im_end|>", 2, 1, 49152)
    assert ours.render_chat([USER]).startswith("<|im_start|>system\nYou are a helpful AI")
