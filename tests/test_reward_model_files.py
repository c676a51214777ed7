"""A reward model on disk: it comes back as it was, and what is none is refused by name."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from reasoning_from_scratch.model import ScalarHead
from reasoning_from_scratch.pretrained import load_pretrained, save_pretrained
from reasoning_from_scratch.reward_model import score
from tests.toys import toy_model, toy_tokenizer


def judge(seed=0, **changes):
    model = ScalarHead(toy_model(seed, scale=8.0, **changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.score.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def opinion(model, tokenizer):
    return score(model, tokenizer, ["1=", "22=", "f"], ["1", "abc", ""])


@pytest.fixture
def save(subject):
    return subject("save_reward_model")


@pytest.fixture
def load(subject):
    return subject("load_reward_model")


@pytest.fixture
def saved(save, tmp_path):
    save(judge(), toy_tokenizer(), tmp_path / "judge")
    return tmp_path / "judge"


@pytest.mark.parametrize(
    "changes", [{}, {"tied": False}, {"qk_norm": True}, {"attention_bias": True}], ids=str
)
def test_a_reward_model_comes_back_as_it_was(subject, save, load, tmp_path, changes):
    model, tokenizer = judge(**changes), toy_tokenizer()
    save(model, tokenizer, tmp_path / "deep" / "judge")
    back, theirs = load(tmp_path / "deep" / "judge")
    found = opinion(back, theirs)
    assert torch.equal(found, opinion(model, tokenizer)) and len(set(found.tolist())) == 3
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in back.parameters())


def test_its_body_is_a_language_model_of_its_own(subject, save, load, saved):
    body, _ = load_pretrained(saved / "body")
    tokens = torch.tensor([[1, 10, 2]])
    assert_close(body(tokens), judge().body(tokens))


def test_a_later_reward_model_takes_the_place_of_an_earlier_one(subject, save, load, saved):
    save(judge(1), toy_tokenizer(), saved)
    found, tokenizer = load(saved)
    assert torch.equal(opinion(found, tokenizer), opinion(judge(1), toy_tokenizer()))
    assert [file.name for file in saved.parent.iterdir()] == ["judge"]
    empty = saved.parent / "empty"
    empty.mkdir()
    save(judge(1), toy_tokenizer(), empty)
    assert sorted(file.name for file in empty.iterdir()) == ["body", "score_head.safetensors"]


def test_what_is_no_reward_model_is_not_overwritten(subject, save, load, tmp_path):
    model, tokenizer = judge(), toy_tokenizer()
    save_pretrained(model.body, tokenizer, tmp_path / "policy")
    (tmp_path / "file").write_text("mine")
    for name in ("policy", "file"):
        with pytest.raises(FileExistsError, match=f"{name} is there and no reward model: choose"):
            save(model, tokenizer, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    load_pretrained(tmp_path / "policy")


def test_an_interrupted_save_leaves_the_earlier_one(subject, save, load, saved, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setitem(save.__globals__, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        save(judge(1), toy_tokenizer(), saved)
    found, tokenizer = load(saved)
    assert torch.equal(opinion(found, tokenizer), opinion(judge(), toy_tokenizer()))
    assert [file.name for file in saved.parent.iterdir()] == ["judge"]


def test_what_is_missing_is_said(subject, save, load, saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        load(tmp_path / "nowhere")
    (saved / "body" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no model.safetensors in .*body"):
        load(saved)
    save_pretrained(toy_model(), toy_tokenizer(), tmp_path / "policy")
    with pytest.raises(FileNotFoundError, match="no score_head.safetensors in .*policy: it holds"):
        load(tmp_path / "policy")


def test_a_language_model_is_no_reward_model_to_save(save, tmp_path):
    with pytest.raises(ValueError, match="model is a GPT, expected a ScalarHead"):
        save(toy_model(), toy_tokenizer(), tmp_path / "judge")
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_is_damaged_or_of_another_body_is_refused(subject, save, load, saved):
    head = saved / "score_head.safetensors"
    tensors = load_file(head)
    whole = head.read_bytes()
    head.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="score_head.safetensors is damaged or cut short"):
        load(saved)
    save_file({"weight": tensors["weight"]}, head)
    with pytest.raises(ValueError, match=r"holds \['weight'\], expected \['bias', 'weight'\]"):
        load(saved)
    save_file(tensors | {"weight": torch.zeros(1, 8)}, head)
    with pytest.raises(
        ValueError, match=r"weight has shape \[1, 8\], expected \[1, 16\]: by the bo"
    ):
        load(saved)
    head.write_bytes(whole)
    load(saved)
