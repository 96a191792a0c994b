"""Text embeddings: exact, averaged as published, cached under everything they depend on."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save

from twostage.clip.prefixes import ends_of_text, shared_length
from twostage.clip.templates import TEMPLATES
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.vocabulary import Vocabulary

TOKENIZER = open_clip.get_tokenizer("ViT-B-16")


def embedder(clip, **changes):
    settings = {"clip": clip, "tokenizer": TOKENIZER, "templates": TEMPLATES["vild"], "split_synonyms": True}
    return TextEmbedder(**(settings | changes))


def reference_embedding(clip, name, templates):
    """One name the plain way: full context, one prompt at a time."""
    rows = [clip.encode_text(TOKENIZER([t.format(name)]), normalize=True)[0] for t in templates]
    return F.normalize(torch.stack(rows).mean(0), dim=-1)


@torch.no_grad()
def test_cut_sequences_and_batches_change_nothing(tiny_clip):
    names = ["cat", "a rather long name of something", "sofa"]
    ours = embedder(tiny_clip, batch_size=5)(Vocabulary.from_words(names))
    for row, name in zip(ours, names, strict=True):
        wanted = reference_embedding(tiny_clip, name, TEMPLATES["vild"])
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_synonyms_are_averaged_or_one_name(tiny_clip):
    vocabulary = Vocabulary.from_words(["sofa, couch"])
    rows = [reference_embedding(tiny_clip, n, TEMPLATES["vild"]) for n in ("sofa", "couch")]
    split = embedder(tiny_clip)(vocabulary)[0]
    torch.testing.assert_close(split, F.normalize(rows[0] + rows[1], dim=-1), rtol=1e-4, atol=1e-5)
    whole = embedder(tiny_clip, split_synonyms=False)(vocabulary)[0]
    torch.testing.assert_close(
        whole, reference_embedding(tiny_clip, "sofa, couch", TEMPLATES["vild"]), rtol=1e-4, atol=1e-5
    )
    assert (split - whole).abs().max() > 1e-3


def test_template_sets():
    assert [len(TEMPLATES[k]) for k in ("single", "vild", "imagenet")] == [1, 14, 80]
    assert TEMPLATES["vild"][1] == "This is a photo of a {}" and TEMPLATES["vild"][13].endswith(
        "large {} in the scene."
    )
    assert all(t.count("{}") == 1 for group in TEMPLATES.values() for t in group)


def test_each_name_is_encoded_once(tiny_clip, monkeypatch):
    tiny_clip.requires_grad_(False)
    text = embedder(tiny_clip)
    counted = []
    real = text.encode_prompts
    monkeypatch.setattr(text, "encode_prompts", lambda prompts: counted.append(len(prompts)) or real(prompts))
    text(Vocabulary.from_words(["cat", "dog"]))
    text(Vocabulary.from_words(["dog", "cat", "bird"]))
    assert sum(counted) == 3 * 14


def test_disk_cache_is_used_and_keyed(tiny_clip, tmp_path, monkeypatch):
    tiny_clip.requires_grad_(False)
    vocabulary = Vocabulary.from_words(["cat", "dog"])
    first = embedder(tiny_clip, cache_folder=str(tmp_path))(vocabulary)
    again = embedder(tiny_clip, cache_folder=str(tmp_path))
    monkeypatch.setattr(again, "encode_prompts", lambda _: pytest.fail("not taken from disk"))
    torch.testing.assert_close(again(vocabulary), first)
    # Other templates, other weights and another activation are other keys.
    single = embedder(tiny_clip, cache_folder=str(tmp_path), templates=TEMPLATES["single"])(vocabulary)
    assert (single - first).abs().max() > 1e-3
    with torch.no_grad():
        tiny_clip.token_embedding.weight += 0.1 * torch.randn_like(tiny_clip.token_embedding.weight)
    changed = embedder(tiny_clip, cache_folder=str(tmp_path))(vocabulary)
    assert (changed - first).abs().max() > 1e-3
    assert len(list(Path(tmp_path).iterdir())) == 3


def test_damaged_cache_file_is_replaced(tiny_clip, tmp_path):
    tiny_clip.requires_grad_(False)
    vocabulary = Vocabulary.from_words(["cat"])
    first = embedder(tiny_clip, cache_folder=str(tmp_path))(vocabulary)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"half a file")
    torch.testing.assert_close(embedder(tiny_clip, cache_folder=str(tmp_path))(vocabulary), first)
    assert file.stat().st_size > 20
    # The format itself has no check sum, and says nothing of whose embeddings they are.
    whole = file.read_bytes()
    others = save({"embeddings": torch.ones(1, 24)}, {"about": '{"names": ["cat"], "sha256": ""}'})
    for content in (whole[:-1] + bytes([whole[-1] ^ 64]), others, save({"embeddings": torch.ones(1, 24)}, {})):
        file.write_bytes(content)
        torch.testing.assert_close(embedder(tiny_clip, cache_folder=str(tmp_path))(vocabulary), first)
        assert file.read_bytes() == whole


def test_a_vocabulary_is_one_file_and_serves_others(tiny_clip, tmp_path, monkeypatch):
    """Also where it is embedded in several batches; a name is found in whatever file it stands."""
    tiny_clip.requires_grad_(False)
    names = [f"thing {index}" for index in range(40)]
    rows = embedder(tiny_clip, cache_folder=str(tmp_path), batch_size=16).embed_names(names)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    again = embedder(tiny_clip, cache_folder=str(tmp_path))
    monkeypatch.setattr(again, "encode_prompts", lambda _: pytest.fail("not taken from disk"))
    assert torch.equal(again.embed_names([names[30], names[3]]), rows[[30, 3]])


def test_words_asked_one_by_one_do_not_pile_up(tiny_clip, tmp_path, monkeypatch):
    tiny_clip.requires_grad_(False)
    text = embedder(tiny_clip, cache_folder=str(tmp_path), templates=TEMPLATES["single"])
    monkeypatch.setattr("twostage.clip.text._KEPT_BYTES", 5 * 24 * 4)
    names = [f"word {index}" for index in range(40)]
    rows = torch.cat([text.embed_names([name]) for name in names])
    assert len(list(tmp_path.rglob("*.safetensors"))) <= 33 and set(text._memory) == set(names[-5:])
    # Those that were forgotten come back from disk, and a vocabulary is held whole however large it is.
    monkeypatch.setattr(text, "encode_prompts", lambda _: pytest.fail("not taken from disk"))
    assert torch.equal(text.embed_names(names), rows) and len(text._memory) == 40


@torch.no_grad()
def test_shared_beginnings_change_nothing(tiny_clip):
    """Many names of one template go through the tower together; names of all lengths, one that begins like the tail."""
    names = [f"{'very ' * (index % 4)}thing {index}" for index in range(18)] + ["in the scene", "a", "."]
    text = embedder(tiny_clip)
    seen = []
    real = text.encode_prompts
    text.encode_prompts = lambda prompts: seen.append(list(prompts)) or real(prompts)
    ours = text.embed_names(names)
    assert len(seen) == 14 and seen[2][:2] == [
        "There is a thing 0 in the scene",
        "There is a very thing 1 in the scene",
    ]
    for row, name in zip(ours, names, strict=True):
        torch.testing.assert_close(row, reference_embedding(tiny_clip, name, TEMPLATES["vild"]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_is_shared_is_read_once(tiny_clip):
    tokens = TOKENIZER(
        ["a photo of a cat.", "a photo of a dog.", "a photo of a big dog.", "a photo of a cat", "a photo"]
    )
    assert shared_length(tokens[:4], 7) == 5
    assert shared_length(tokens, 4) == 3
    # A prompt that is nothing but the beginning keeps its end for itself.
    assert shared_length(tokens[:1].repeat(2, 1), 8) == 7
    widths = []
    hook = tiny_clip.transformer.resblocks[0].mlp.register_forward_pre_hook(
        lambda _module, inputs: widths.append(tuple(inputs[0].shape[:2]))
    )
    ends_of_text(tiny_clip, tokens[:4])
    hook.remove()
    # The shared five tokens of one row, then the two of one prompt, the three of two and the four of one.
    assert widths == [(1, 5), (1, 2), (2, 3), (1, 4)]


def test_weights_loaded_later_are_noticed(tiny_clip):
    text = embedder(tiny_clip)
    vocabulary = Vocabulary.from_words(["cat"])
    before = text(vocabulary)
    state = {k: v + 0.1 * torch.randn_like(v) for k, v in tiny_clip.state_dict().items()}
    tiny_clip.load_state_dict(state)
    after = text(vocabulary)
    assert (before - after).abs().max() > 1e-3
    wanted = reference_embedding(tiny_clip, "cat", TEMPLATES["vild"])
    torch.testing.assert_close(after[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_prompt_that_does_not_fit_is_an_error(tiny_clip):
    with pytest.raises(UserError, match="77 tokens"):
        embedder(tiny_clip)(Vocabulary.from_words(["word " * 80]))
    fits = "word " * 60
    assert embedder(tiny_clip)(Vocabulary.from_words([fits])).shape == (1, 24)


@torch.no_grad()
def test_rows_of_names_and_their_average_make_a_class(tiny_clip):
    text = embedder(tiny_clip)
    rows = text.embed_names(["sofa", "couch", "sofa"])
    assert torch.equal(rows[0], rows[2])
    torch.testing.assert_close(
        rows[1], reference_embedding(tiny_clip, "couch", TEMPLATES["vild"]), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        text(Vocabulary.from_words(["sofa, couch"]))[0], F.normalize(rows[:2].mean(0), dim=-1), rtol=1e-5, atol=1e-6
    )


@torch.no_grad()
def test_plain_features_are_averaged_on_demand(tiny_clip):
    plain = torch.stack([tiny_clip.encode_text(TOKENIZER([t.format("cat")]))[0] for t in TEMPLATES["vild"]])
    ours = embedder(tiny_clip, unit_prompts=False)(Vocabulary.from_words(["cat"]))[0]
    torch.testing.assert_close(ours, F.normalize(plain.mean(0), dim=-1), rtol=1e-4, atol=1e-5)
    assert (ours - embedder(tiny_clip)(Vocabulary.from_words(["cat"]))[0]).abs().max() > 1e-4


def test_long_captions_are_cut_and_end_the_text(tiny_clip):
    captions = ["a cat", "a very long tale of " + "cats and " * 30]
    ours = embedder(tiny_clip).encode_captions(captions, max_tokens=16)
    tokens = TOKENIZER(captions, context_length=16)
    assert int(tokens[1, -1]) == int(tokens.max())
    padded = F.pad(tokens, (0, 77 - 16))
    torch.testing.assert_close(ours, tiny_clip.encode_text(padded), rtol=1e-4, atol=1e-5)
    assert ours.requires_grad


@torch.no_grad()
def test_per_template_embeddings(tiny_clip):
    """Mean over synonyms per template; the templates stay apart."""
    ours = embedder(tiny_clip, per_template=True)(Vocabulary.from_words(["cat", "sofa, couch"]))
    assert ours.shape == (2, 14, 24)
    for index, template in enumerate(TEMPLATES["vild"]):
        cat, sofa, couch = (reference_embedding(tiny_clip, n, [template]) for n in ("cat", "sofa", "couch"))
        torch.testing.assert_close(ours[0, index], cat, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours[1, index], F.normalize(sofa + couch, dim=-1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_first_synonym(tiny_clip):
    text = embedder(tiny_clip, first_synonym=True, templates=TEMPLATES["scene"])
    both, one = text(Vocabulary.published(["plane, aeroplane", "pot,flower"])), ("plane", "pot,flower")
    for row, name in zip(both, one, strict=True):
        wanted = reference_embedding(tiny_clip, name, ["A photo of a {} in the scene"])
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-5)


def test_a_trained_tower_gives_gradients_and_is_not_cached(tiny_clip, tmp_path):
    tiny_clip.requires_grad_(False)
    tiny_clip.transformer.requires_grad_(True)
    text = embedder(tiny_clip, cache_folder=str(tmp_path))
    vocabulary = Vocabulary.from_words(["cat", "sofa, couch"])
    with torch.no_grad():
        before = text(vocabulary)
    fresh = text(vocabulary)
    torch.testing.assert_close(fresh, before, rtol=1e-4, atol=1e-5)
    fresh[0, 0].backward()
    gradient = tiny_clip.transformer.resblocks[0].attn.out_proj.weight.grad
    assert gradient is not None and float(gradient.abs().sum()) > 0
    torch.optim.SGD(tiny_clip.transformer.parameters(), lr=1.0).step()
    with torch.no_grad():
        after = text(vocabulary)
        torch.testing.assert_close(
            after[0], reference_embedding(tiny_clip, "cat", TEMPLATES["vild"]), rtol=1e-4, atol=1e-5
        )
    assert (after - before).abs().max() > 1e-4
    assert not list(tmp_path.iterdir())


def test_a_frozen_tower_gives_no_gradients(tiny_clip):
    tiny_clip.requires_grad_(False)
    assert not embedder(tiny_clip)(Vocabulary.from_words(["cat"])).requires_grad
