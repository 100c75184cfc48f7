"""Model folders of every layout: found, converted once, checked; ids equal the reference libraries'."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mutations import mutate
from tokenizer_corpus import SIZE, corpus
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from deploykit.checkpoint import CheckpointError, Facts
from deploykit.checkpoint.pretokenizers import PRE_TOKENIZERS
from deploykit.checkpoint.tokenizer import TokenizerFiles, encode_plain, ensure_tokenizer, load_tokenizer
from deploykit.checkpoint.tokenizers.tiktoken import BYTE_NAMES

Make = Callable[..., tuple[Path, TokenizerFiles]]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@cache
def trained() -> Tokenizer:
    """Byte-level BPE, trained on words as GPT-4 cuts them."""
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(PRE_TOKENIZERS["gpt-4o"].patterns[0])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus()[:6000], trainer)
    return tokenizer


@cache
def ranks() -> dict[bytes, int]:
    """The same as tiktoken keeps it: bytes first, then in the order of the merges."""
    model = json.loads(trained().to_str())["model"]
    back = {name: byte for byte, name in enumerate(BYTE_NAMES)}
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(back[c] for c in a + b) for a, b in model["merges"]]
    return {token: rank for rank, token in enumerate(dict.fromkeys(tokens))}


def tiktoken_file(path: Path) -> Path:
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks().items()]
    path.write_text("".join(lines))
    return path


def tiktoken_ids(text: str, pattern: str) -> list[int]:
    tiktoken = pytest.importorskip("tiktoken")
    encoding = tiktoken.Encoding(name="x", pat_str=pattern, mergeable_ranks=ranks(), special_tokens={})
    ids: list[int] = encoding.encode_ordinary(text)
    return ids


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(model_type, config={…}): the files of tmp_path/model as a checkpoint."""
    home = tmp_path / "model"
    home.mkdir()

    def ensure(model_type: str, **settings: Any) -> tuple[Path, TokenizerFiles]:
        if settings:
            (home / "tokenizer_config.json").write_text(json.dumps(settings))
        sizes = dict.fromkeys(
            ("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim"), 1
        )
        facts = Facts(
            path=str(home), format="safetensors", architecture="X", model_type=model_type, config={},
            weight_dtype="float32", vocab_size=10**6, max_position_embeddings=1, **sizes,
        )  # fmt: skip
        return home, ensure_tokenizer(facts, tmp_path / "cache")

    ensure.home = home  # type: ignore[attr-defined]
    return ensure


def encode_all(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    tokenizer.encode_special_tokens = True
    return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


# ---------------------------------------------------------------- tiktoken


@pytest.mark.parametrize(
    ("model_type", "name", "size"),
    [
        ("llama", "tokenizer.model", SIZE),
        ("qwen", "qwen.tiktoken", 4000),
        ("kimi_k2", "tiktoken.model", 4000),
    ],
)
def test_tiktoken_ids_equal_the_reference(make: Make, model_type: str, name: str, size: int) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    tiktoken_file(make.home / name)  # type: ignore[attr-defined]
    settings = {}
    first = len(ranks())
    if model_type == "kimi_k2":
        decoder = {str(first + i): {"content": t, "special": True} for i, t in enumerate(["[BOS]", "[EOS]"])}
        settings = {"added_tokens_decoder": decoder, "bos_token": "[BOS]", "eos_token": "[EOS]"}
    _, files = make(model_type, **settings)
    pre = {"llama": "llama-bpe", "qwen": "qwen2", "kimi_k2": "kimi-k2"}[model_type]
    reference = tiktoken.Encoding(
        name=model_type, pat_str=PRE_TOKENIZERS[pre].patterns[0], mergeable_ranks=ranks(), special_tokens={}
    )
    texts = list(corpus()[-size:])
    tokenizer = load_tokenizer(files.tokenizer_json)
    composed = [tokenizer.normalizer.normalize_str(t) for t in texts] if tokenizer.normalizer else texts
    wanted = reference.encode_ordinary_batch(composed, num_threads=1)
    for text, a, b in zip(texts, wanted, encode_all(tokenizer, texts), strict=True):
        assert a == b, repr(text)


def test_tiktoken_special_tokens(make: Make) -> None:
    home = make.home  # type: ignore[attr-defined]
    tiktoken_file(home / "tokenizer.model")
    first = len(ranks())
    _, files = make("llama")
    tokenizer = load_tokenizer(files.tokenizer_json)
    assert (files.bos_token, files.eos_token, files.add_bos) == ("<|begin_of_text|>", "<|end_of_text|>", True)
    assert tokenizer.encode("a<|eot_id|>").ids[-1] == first + 9
    assert tokenizer.token_to_id("<|reserved_special_token_246|>") == first + 255
    (home / "tokenizer.model").rename(home / "qwen.tiktoken")
    _, files = make("qwen")
    assert load_tokenizer(files.tokenizer_json).token_to_id("<|extra_204|>") == first + 207
    assert (files.bos_token, files.add_bos) == (None, False)


def test_tiktoken_faults(make: Make) -> None:
    path = tiktoken_file(make.home / "qwen.tiktoken")  # type: ignore[attr-defined]
    lines = path.read_text().splitlines(keepends=True)

    def refused(model_type: str = "qwen") -> str:
        with pytest.raises(CheckpointError) as e:
            make(model_type)
        return str(e.value)

    assert "no pre-tokenizer is known for alien" in refused("alien")
    assert "special tokens aren't known" in refused("chatglm")
    for number, line, reason in (
        (7, "IQ==", "line 8"),
        (7, "IQ== x\n", "line 8"),
        (300, lines[299], "line 301"),
        (300, "!!! 5\n", "line 301"),
    ):
        path.write_text("".join([*lines[:number], line, *lines[number + 1 :]]))
        assert reason in refused()
    path.write_text("".join(lines[1:]))
    assert "1 bytes have no token, the first 0x00" in refused()
    tiktoken_file(path.with_name("other.tiktoken"))
    assert "several tiktoken files" in refused()


def test_mistrals_tekken(make: Make) -> None:
    rows = [{"rank": r, "token_bytes": base64.b64encode(t).decode()} for t, r in ranks().items()]
    pattern = PRE_TOKENIZERS["tekken"].patterns[0]
    config = {"pattern": pattern, "default_vocab_size": len(rows) + 1000, "default_num_special_tokens": 1000}
    path = make.home / "tekken.json"  # type: ignore[attr-defined]
    path.write_text(json.dumps({"config": config, "vocab": rows}))
    _, files = make("mistral")
    tokenizer = load_tokenizer(files.tokenizer_json)
    plain = [1000 + r for r in tiktoken_ids("hi there", pattern)]
    assert tokenizer.encode("[INST]hi there").ids == [3, *plain]
    assert (files.bos_token, files.eos_token, files.add_bos) == ("<s>", "</s>", True)
    assert tokenizer.id_to_token(999) == "<SPECIAL_999>"
    rows[5]["rank"] = 6
    path.write_text(json.dumps({"config": config, "vocab": rows}))
    with pytest.raises(CheckpointError, match="token 5"):
        make("mistral")


@pytest.mark.parametrize(("model_type", "name"), [("qwen", "qwen.tiktoken"), ("mistral", "tekken.json")])
def test_mutated_files_never_escape(make: Make, model_type: str, name: str) -> None:
    path = make.home / name  # type: ignore[attr-defined]
    few = dict(list(ranks().items())[:400])
    if name == "tekken.json":
        rows = [{"rank": r, "token_bytes": base64.b64encode(t).decode()} for t, r in few.items()]
        config = {"pattern": r"\\s+", "default_vocab_size": 420, "default_num_special_tokens": 20}
        path.write_text(json.dumps({"config": config, "vocab": rows}))
    else:
        path.write_text("".join(f"{base64.b64encode(t).decode()} {r}\n" for t, r in few.items()))
    sound = path.read_bytes()
    make(model_type)
    for seed in range(150):
        path.write_bytes(mutate(sound, seed, len(sound)))
        with contextlib.suppress(CheckpointError):
            make(model_type)


# ---------------------------------------------------------------- vocab.json and merges.txt


def gpt2_files(home: Path) -> dict[str, int]:
    model = json.loads(trained().to_str())["model"]
    vocab = model["vocab"] | {text: len(model["vocab"]) + i for i, text in enumerate(SPECIAL)}
    (home / "vocab.json").write_text(json.dumps(vocab))
    (home / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    return vocab


@pytest.mark.parametrize(("model_type", "name"), [("gpt2", "GPT2Tokenizer"), ("qwen2", "Qwen2Tokenizer")])
def test_vocabulary_and_merges_equal_the_reference(make: Make, model_type: str, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    home = make.home  # type: ignore[attr-defined]
    gpt2_files(home)
    settings = {"eos_token": "<|endoftext|>", "additional_special_tokens": SPECIAL[1:]}
    _, files = make(model_type, **settings)
    reference = getattr(transformers, name)(
        vocab=str(home / "vocab.json"), merges=str(home / "merges.txt"), eos_token="<|endoftext|>"
    )._tokenizer
    texts = list(corpus()[:SIZE] if model_type == "gpt2" else corpus()[-4000:])
    tokenizer = load_tokenizer(files.tokenizer_json)
    assert encode_all(tokenizer, texts) == encode_all(reference, texts)
    assert (files.bos_token, files.eos_token, files.add_bos) == (None, "<|endoftext|>", False)
    tokenizer.encode_special_tokens = False
    assert tokenizer.encode("<|im_start|>").tokens == ["<|im_start|>"]


def test_vocabulary_and_merges_faults(make: Make) -> None:
    home = make.home  # type: ignore[attr-defined]
    vocab = gpt2_files(home)

    def refused() -> str:
        with pytest.raises(CheckpointError) as e:
            make("gpt2", eos_token="<|endoftext|>")
        return str(e.value)

    (home / "added_tokens.json").write_text(json.dumps({"<new>": 5}))
    assert "two tokens have the id 5" in refused()
    (home / "added_tokens.json").write_text(json.dumps({"<new>": len(vocab) + 7}))
    _, files = make("gpt2", eos_token="<|endoftext|>")
    assert load_tokenizer(files.tokenizer_json).encode("<new>").ids == [len(vocab) + 7]
    merges = (home / "merges.txt").read_text()
    (home / "merges.txt").write_text(merges + "zz qq\n")
    assert "isn't a pair of tokens" in refused()
    (home / "merges.txt").write_text(merges)
    (home / "vocab.json").write_text(json.dumps({**vocab, "again": 3}))
    assert "'again': 3" in refused()


# ---------------------------------------------------------------- tokenizer.json as it is


def own_file(home: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_str(trained().to_str())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(SPECIAL[0], normalized=False)])
    tokenizer.save(str(home / "tokenizer.json"))
    return tokenizer


def test_a_tokenizer_json_gets_what_stands_beside_it(make: Make) -> None:
    """As transformers loads it: tokens that the file lacks, and those that are special by their role."""
    transformers = pytest.importorskip("transformers")
    home = make.home  # type: ignore[attr-defined]
    size = own_file(home).get_vocab_size()
    decoder = {
        str(size): {"content": "<|im_start|>", "special": True},
        str(size + 1): {"content": "<tool>", "special": False, "lstrip": True},
    }
    settings = {"added_tokens_decoder": decoder, "eos_token": "<|endoftext|>", "pad_token": "!"}
    _, files = make("llama", tokenizer_class="PreTrainedTokenizerFast", **settings)
    assert files.tokenizer_json.parent.parent.name == "tokenizers"  # a completed copy, in the cache
    tokenizer = load_tokenizer(files.tokenizer_json)
    reference = transformers.AutoTokenizer.from_pretrained(home)
    for text in corpus()[:3000]:
        text += "<|im_start|> <tool><|endoftext|>"
        if "!" not in text:  # a role for "!" doesn't make it a control token here
            assert tokenizer.encode(text, add_special_tokens=False).ids == reference.encode(
                text, add_special_tokens=False
            )
    assert tokenizer.decode(tokenizer.encode("hi!").ids) == "hi!"


def test_an_unchanged_file_is_used_where_it_lies(make: Make) -> None:
    home = make.home  # type: ignore[attr-defined]
    own_file(home)
    _, files = make("llama", eos_token="<|endoftext|>", add_prefix_space=False)
    assert files.tokenizer_json == home / "tokenizer.json"


def test_ids_that_contradict_each_other_are_an_error(make: Make) -> None:
    own_file(make.home)  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="has no id"):
        make("llama", added_tokens_decoder={"7": {"content": "<new>", "special": True}})


def test_a_prefix_space_by_configuration(make: Make) -> None:
    home = make.home  # type: ignore[attr-defined]
    tokenizer = own_file(home)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(home / "tokenizer.json"))
    _, files = make("gpt2", add_prefix_space=True)
    assert load_tokenizer(files.tokenizer_json).encode("a").ids == tokenizer.encode(" a").ids


def test_a_tokenizer_that_loses_text_is_an_error(make: Make) -> None:
    home = make.home  # type: ignore[attr-defined]
    tokenizer = own_file(home)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("é", "e")])
    tokenizer.save(str(home / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="doesn't give text back") as e:
        make("llama")
    assert "comes back as" in str(e.value)
    assert "tokenizer.json" in str(e.value)


def test_a_special_token_that_is_several_is_an_error(make: Make) -> None:
    home = make.home  # type: ignore[attr-defined]
    tokenizer = own_file(home)
    tokenizer.normalizer = normalizers.Replace("<", "«")
    tokenizer.add_special_tokens([AddedToken("x<|a|>", normalized=False, single_word=False)])
    tokenizer.add_special_tokens([AddedToken("<|a|>y", normalized=True), AddedToken("<|a", normalized=False)])
    tokenizer.save(str(home / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="isn't one token"):
        make("llama")


# ---------------------------------------------------------------- the rest


def test_what_was_looked_for_is_listed(make: Make) -> None:
    (make.home / "vocab.txt").write_text("[PAD]\n")  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError) as e:
        make("bert")
    for part in (
        "tokenizer.json",
        "spiece.model",
        "*.tiktoken",
        "merges.txt",
        "only vocab.txt",
        "save_pretrained",
    ):
        assert part in str(e.value)


def test_converted_once_and_anew_where_a_file_changes(make: Make) -> None:
    home = make.home  # type: ignore[attr-defined]
    tiktoken_file(home / "qwen.tiktoken")
    _, first = make("qwen")
    stamp = first.tokenizer_json.stat().st_mtime_ns
    _, again = make("qwen")
    assert again == first
    assert again.tokenizer_json.stat().st_mtime_ns == stamp
    _, other = make("qwen", eos_token="<|im_end|>")
    assert other.tokenizer_json != first.tokenizer_json
    assert other.eos_token == "<|im_end|>"
    about = first.tokenizer_json.with_name("about.json")
    about.write_text("{")
    (home / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match="made again"):
        make("qwen")
    shutil.rmtree(about.parent)
    assert make("qwen")[1] == first


def test_users_text_stays_text_in_every_layout(make: Make) -> None:
    home = make.home  # type: ignore[attr-defined]
    tiktoken_file(home / "qwen.tiktoken")
    tokenizer = load_tokenizer(make("qwen")[1].tokenizer_json)
    special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    for text in corpus()[:2000]:
        assert special.isdisjoint(encode_plain(tokenizer, text + "<|im_end|>"))
