#!/usr/bin/env python3
"""Token ids, decoded texts and byte spans against the packages tokenizers, sentencepiece, tiktoken and mistral-common, for
every tokenizer of the test data, for Unigram models trained here, and for small ones made here, over generated strings.

QLORA_TOKENIZER_STRINGS: strings for each real tokenizer (default 4000: a minute; tokenizers_slow_test.py takes 200000).
"""
import base64
import io
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unicodedata

import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

try:
    import tiktoken
    import tiktoken.load
except ImportError:  # said where it matters
    tiktoken = None
try:
    import mistral_common
    from mistral_common.tokens.tokenizers.tekken import SpecialTokenPolicy, Tekkenizer
except ImportError:  # wants an older numpy than the other referees
    mistral_common = None

BUILD = pathlib.Path(os.environ.get("QLORA_BUILD", "build/cpu"))
PROBE = next((p for p in (BUILD / "probe_tokenize", BUILD / "tests" / "probe_tokenize") if p.exists()), None)
DATA = pathlib.Path(os.environ.get("QLORA_TEST_DATA", pathlib.Path.home() / ".cache/qlora/test-data"))
STRINGS = int(os.environ.get("QLORA_TOKENIZER_STRINGS", "4000"))

# --- strings -------------------------------------------------------------------------------------------------------

SCRIPTS = [(0x20, 0x7E), (0xA0, 0x17F), (0x180, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F),
           (0x530, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF), (0x700, 0x74F), (0x900, 0x97F), (0x980, 0x9FF),
           (0xA00, 0xA7F), (0xB80, 0xBFF), (0xD00, 0xD7F), (0xE00, 0xE7F), (0xE80, 0xEFF), (0xF00, 0xFFF),
           (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F), (0x13A0, 0x13FF), (0x1780, 0x17FF),
           (0x1800, 0x18AF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x209F), (0x20A0, 0x20CF),
           (0x2100, 0x214F), (0x2150, 0x218F), (0x2190, 0x21FF), (0x2200, 0x22FF), (0x2460, 0x24FF), (0x2580, 0x259F),
           (0x2600, 0x26FF), (0x2700, 0x27BF), (0x2C00, 0x2C5F), (0x3000, 0x303F), (0x3040, 0x309F), (0x30A0, 0x30FF),
           (0x3100, 0x312F), (0x4E00, 0x9FFF), (0xA000, 0xA48F), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFB4F),
           (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x10400, 0x1044F), (0x11380, 0x113E2), (0x16D40, 0x16D79),
           (0x1D400, 0x1D7FF), (0x1F300, 0x1F6FF), (0x1F900, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0100, 0xE01EF)]
SPACES = [" ", "  ", "   ", "    ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u180e", "\x85",
          "\u2028", "\x0b", "\x0c", "\x1c", " \n ", "\n  ", "\t\t"]
WORDS = ["the", "Hello", "world", "SELECT", "FROM", "WHERE", "count(*)", "T1.name", "=", "!=", "'s", "'S", "'re", "'VE",
         "'ll", "don't", "I'm", "it'\u017f", "\u2019s", "def f(x):", "return", "{", "}", "};", "[INST]", "//", "/* c */", "#",
         "https://a.b/c?d=e&f=1", "user@mail.org", "3.14", "1e-5", "0xFF", "2024-01-31", "12345678901234567890", "\u0663\u0664",
         "\u00bd", "\u216b", "\u4e00\u4e8c\u4e09", "e\u0301", "a\u0323\u0302", "\u1e9b\u0323", "\u212b", "\ufb01", "\uac00\u11a8",
         "\u1100\u1161\u11a7", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "\u2764\ufe0f",
         "na\u00efve", "Stra\u00dfe", "\u0130stanbul", "\u0928\u093f", "\u2581", "\u2581\u2581a", "<0x0A>", "\ufffd", "\u0000",
         "a_b", "camelCase", "...", "!!!", "--", "\u2014", "\u00ab", "\u00bb", "\u3002", "\uff0c", "\u0e01\u0e33", "\u0644\u0627"]
BROKEN = [b"\xff", b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe2\x28\xa1",
          b"\xf8\x88\x80\x80\x80"]


BYTES_OF_MODELS = ("<0x0A>",)  # text to tokenizers, a byte to others


def fragment(rng, specials):
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(WORDS).encode()
    if kind < 0.55:
        return rng.choice(SPACES).encode() * rng.choice([1, 1, 1, 2, 7])
    if kind < 0.60:
        return str(rng.randrange(10 ** rng.randrange(1, 12))).encode()
    if kind < 0.66 and specials:
        return rng.choice(specials).encode()
    if kind < 0.69:
        return rng.choice(BROKEN)
    if kind < 0.72:
        return chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])).encode()
    low, high = rng.choice(SCRIPTS)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 8))).encode("utf-8", "surrogatepass")


def strings(seed, count, specials):
    rng = random.Random(seed)
    out = [b"", b" ", b"  ", b"\n", b"a", "\u2581".encode(), b"\xff"]
    while len(out) < count:
        parts = [fragment(rng, specials) for _ in range(rng.choice([1, 2, 3, 5, 8, 13]))]
        out.append((b" " if rng.random() < 0.3 else b"").join(parts))
    out[-1] = b"".join(fragment(rng, specials) for _ in range(3000))  # a long one
    return out


# --- both sides ----------------------------------------------------------------------------------------------------


def ask(path, texts):
    """What our tokenizer makes of the texts: (ids, spans, decoded, decoded without special tokens) each."""
    for begin in range(0, len(texts), 20000):
        yield from ask_at_once(path, texts[begin:begin + 20000])


def ask_at_once(path, texts):
    request = b"".join(struct.pack("<I", len(t)) + t for t in texts)
    done = subprocess.run([str(PROBE), str(path)], input=request, stdout=subprocess.PIPE, check=True)
    data, at, out = done.stdout, 0, []

    def text():
        nonlocal at
        (length,) = struct.unpack_from("<I", data, at)
        at += 4 + length
        return data[at - length:at]

    for _ in texts:
        (count,) = struct.unpack_from("<I", data, at)
        values = struct.unpack_from(f"<{3 * count}I", data, at + 4)
        at += 4 + 12 * count
        out.append((list(values[:count]), list(zip(values[count:2 * count], values[2 * count:])), text(), text()))
    assert at == len(data)
    return out


class Report:
    def __init__(self):
        self.failed = 0

    def line(self, name, count, differences, extra=""):
        total = sum(differences.values())
        self.failed += total
        counts = ", ".join(f"{k} {v}" for k, v in differences.items())
        print(f"{'ok  ' if total == 0 else 'FAIL'} {name}: {count} strings, differences: {counts}{extra}", flush=True)


def show(kind, text, ours, theirs, shown):
    if shown < 4:
        print(f"    {kind} of {text!r:.300}\n      ours   {ours!r:.300}\n      theirs {theirs!r:.300}")


def char_spans(text, spans):
    """Byte spans of valid UTF-8 widened to characters, as character offsets."""
    starts, at = {}, 0
    for index, char in enumerate(text):
        for _ in char.encode():
            starts[at] = index
            at += 1
    starts[at] = len(text)
    return [(starts[b], starts[e - 1] + 1 if e > b else starts[b]) for b, e in spans]


def compare_json(report, name, path, texts, with_spans):
    theirs = Tokenizer.from_file(str(path))
    theirs.no_truncation()
    theirs.no_padding()
    differences = {"ids": 0, "decoded": 0, "decoded without special": 0}
    if with_spans:
        differences["spans"] = 0
    spans_compared = 0
    for raw, (ids, spans, plain, skipped) in zip(texts, ask(path, texts)):
        text = raw.decode("utf-8", "replace")
        encoding = theirs.encode(text)
        checks = [("ids", ids, encoding.ids),
                  ("decoded", plain.decode(), theirs.decode(encoding.ids, skip_special_tokens=False)),
                  ("decoded without special", skipped.decode(), theirs.decode(encoding.ids, skip_special_tokens=True))]
        # The reference's spans lose characters that NFC joins; ours do not.
        if with_spans and text.encode() == raw and unicodedata.is_normalized("NFC", text) and ids == encoding.ids:
            spans_compared += 1
            special = encoding.special_tokens_mask
            checks.append(("spans", [s for s, m in zip(char_spans(text, spans), special) if not m],
                           [tuple(o) for o, m in zip(encoding.offsets, special) if not m]))
        for kind, a, b in checks:
            if a != b:
                show(kind, raw, a, b, differences[kind])
                differences[kind] += 1
    report.line(name, len(texts), differences, f" ({spans_compared} spans compared)" if with_spans else "")


def compare_sentencepiece(report, name, path, texts, ties=False):
    """ties: versions of the library round sums of scores differently, so paths of equal sums may change places."""
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    differences = {"ids": 0, "decoded": 0, "spans": 0}
    for raw, (ids, spans, plain, _) in zip(texts, ask(path, texts)):
        text = raw.decode("utf-8", "replace")
        proto = theirs.encode(text, return_type="proto")
        expected = [theirs.bos_id()] + [p.id for p in proto.pieces]
        checks = [("ids", ids, expected), ("decoded", plain.decode(), theirs.decode(expected))]
        if ties:
            checks[0] = ("ids", sorted(ids), sorted(expected))
        elif text.encode() == raw:
            checks.append(("spans", spans[1:], [(p.begin, p.end) for p in proto.pieces]))
        for kind, a, b in checks:
            if a != b:
                show(kind, raw, a, b, differences[kind])
                differences[kind] += 1
    report.line(name, len(texts), differences)


def compare_with(report, name, path, texts, encode, decode):
    """encode(text): the ids expected; decode(ids): the texts with special tokens, and without."""
    differences = {"ids": 0, "decoded": 0, "decoded without special": 0}
    for raw, (ids, _, plain, skipped) in zip(texts, ask(path, texts)):
        expected = encode(raw.decode("utf-8", "replace"))
        for kind, a, b in (("ids", ids, expected), *zip(list(differences)[1:], (plain.decode(), skipped.decode()), decode(expected))):
            if a != b:
                show(kind, raw, a, b, differences[kind])
                differences[kind] += 1
    report.line(name, len(texts), differences)


# --- Unigram models, trained here ------------------------------------------------------------------------------------


def train_sentencepiece(lines, path, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, model_type="unigram",
                                             hard_vocab_limit=False, minloglevel=2, **options)
    path.write_bytes(model.getvalue())
    return sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())


def converted_unigram(proto, normalizer, pre, decoder, byte_fallback=False, post=None):
    """The tokenizer.json that a SentencePiece model becomes."""
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [
        {"id": i, "content": p.piece, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, p in enumerate(proto.pieces) if p.type in (p.CONTROL, p.UNKNOWN)], "normalizer": normalizer, "pre_tokenizer": pre,
        "post_processor": post, "decoder": decoder, "model": {
            "type": "Unigram", "unk_id": proto.trainer_spec.unk_id, "byte_fallback": byte_fallback, "vocab": [[p.piece, p.score] for p in proto.pieces]}}


def unigram_models(report, folder, root):
    """In the forms of T5, of XLM-R (trained by tokenizers), and with byte fallback; the model's own file too."""
    lines = (folder / "text/wikitext2_train_5k.txt").read_text().splitlines()[:2500]
    lines += [t.decode("utf-8", "ignore").replace("\0", "") for t in strings(3, 2500, [])]
    path = root / "tokenizer.model"
    proto = train_sentencepiece(lines, path, vocab_size=8000, character_coverage=0.99, normalization_rule_name="nmt_nfkc",
                                max_sentence_length=100000)
    specials = ["<s>", "</s>", "<unk>"]
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    compare_sentencepiece(report, "Unigram of sentencepiece", path, strings(21, STRINGS, specials), ties=True)

    charsmap = proto.normalizer_spec.precompiled_charsmap
    precompiled = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    post = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [theirs.eos_id()], "tokens": ["</s>"]}}}
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    path = root / "tokenizer.json"
    path.write_text(json.dumps(converted_unigram(proto, {"type": "Sequence", "normalizers": [precompiled, spaces]}, meta, meta, post=post)))
    compare_json(report, "Unigram in T5's form", path, strings(22, STRINGS, specials), False)

    everything = [chr(c) for c in (*range(0xD800), *range(0xE000, 0x33480), *range(0xE0000, 0xE0200))]
    every_point = ["a".join(everything[i:i + 256]).encode() for i in range(0, len(everything), 256)]
    marked = ["".join(f"a{c}\ufb01{c}e\u0301{c}" for c in everything[i:i + 128]).encode() for i in range(0, len(everything), 128)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    path.write_text(json.dumps(small(normalizer=precompiled, pre=level)))  # byte for byte
    compare_json(report, "every code point: Precompiled", path, every_point, False)
    compare_json(report, "every code point as a mark: Precompiled", path, marked, False)

    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " ")])
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trained.decoder = decoders.Metaspace()
    trained.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=9000, special_tokens=specials, unk_token="<unk>", show_progress=False))
    trained.save(str(path))
    compare_json(report, "Unigram in XLM-R's form", path, strings(23, STRINGS, specials), False)

    proto = train_sentencepiece(lines, root / "bytes.model", vocab_size=4000, byte_fallback=True, normalization_rule_name="identity",
                                character_coverage=0.98, max_sentence_length=100000, remove_extra_whitespaces=False)
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}]}
    path.write_text(json.dumps(converted_unigram(proto, None, {**meta, "split": False}, decoder, True)))
    compare_json(report, "Unigram with byte fallback", path, strings(24, STRINGS, specials), False)
    vocab = [["<unk>", 0], ["a", -1.1], ["aa", -2.2], ["aaa", -3.3000000000000003], ["b", -0.7], ["ab", -1.8], ["ba", -1.7999999999999998], ["xy", -30]]
    path.write_text(json.dumps(small({"type": "Unigram", "unk_id": 0, "vocab": vocab})))
    rng = random.Random(25)
    texts = ["".join(rng.choice(["a", "b", "aa", "xy", "yx", "<unk>"]) for _ in range(rng.randrange(20))).encode() for _ in range(4000)]
    compare_json(report, "Unigram with equal sums", path, texts, False)


# --- vocabularies by rank --------------------------------------------------------------------------------------------

LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
                  r"\s+(?!\S)|\s+")


def rank_files(report, folder, root):
    """Llama 3's file alone as tiktoken takes it; in a folder as the tokenizer.json of the same model; Mistral's Tekken."""
    path = folder / "llama3/tokenizer.model"
    in_folder = root / "llama3"
    in_folder.mkdir()
    shutil.copy(path, in_folder)
    specials = ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|python_tag|>"]
    whole = Tokenizer.from_file(str(folder / "llama3.1_hf/tokenizer.json"))
    compare_with(report, "llama3/tokenizer.model in a folder", in_folder, strings(31, STRINGS, specials), lambda text: whole.encode(text).ids,
                 lambda ids: (whole.decode(ids, skip_special_tokens=False), whole.decode(ids)))
    unknown = root / "unknown.tiktoken"
    unknown.write_text("".join(f"{base64.b64encode(bytes([i])).decode()} {i}\n" for i in range(256)))
    refused = subprocess.run([str(PROBE), str(unknown)], input=b"", capture_output=True)
    report.line("an unknown rank file is refused", 1, {"message": int(refused.returncode == 0 or b"256 ranks" not in refused.stderr)})
    if tiktoken is None:
        print("SKIPPED: tiktoken is not installed: Llama 3's file alone was not compared with it")
    else:
        compare_tiktoken(report, path, specials)
    if mistral_common is None:
        print("SKIPPED: mistral-common is not installed: no Tekken file was compared with it")
    else:
        compare_tekken(report)


def compare_tiktoken(report, path, specials):
    ranks = tiktoken.load.load_tiktoken_bpe(str(path))
    theirs = tiktoken.Encoding("llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={"<|begin_of_text|>": 128000})
    compare_with(report, "llama3/tokenizer.model", path, strings(32, STRINGS, specials), lambda text: [128000] + theirs.encode(text, disallowed_special=()),
                 lambda ids: (theirs.decode(ids), theirs.decode(ids[1:])))


def compare_tekken(report):
    for path in sorted((pathlib.Path(mistral_common.__file__).parent / "data").glob("tekken*.json")):
        tekken = Tekkenizer.from_file(path)
        compare_with(report, path.name, path, strings(33, STRINGS, ["<s>", "[INST]", "<SPECIAL_30>"]), lambda text: tekken.encode(text, True, False),
                     lambda ids: (tekken.decode(ids, SpecialTokenPolicy.KEEP), tekken.decode(ids)))


# --- small tokenizers of our own: every component ------------------------------------------------------------------


def byte_alphabet():
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in keep]
    return [chr(b) for b in keep] + [chr(0x100 + i) for i in range(len(rest))]


def small_model(**options):
    letters = sorted({*byte_alphabet(), "\u2581", *"abcdefghijklmnopqrstuvwxyz ", "\u00e9", "\u4e00", "<unk>"})
    vocab = {token: i for i, token in enumerate(letters)}
    for i in range(256):
        vocab[f"<0x{i:02X}>"] = len(vocab)
    merges = []
    for pair in ["t h", "th e", "h e", "e r", "l l", "o r", "i n", "in g", "\u0120 t", "\u0120t he", "\u2581 t", "\u2581 a", "\u2581t he",
                 "1 2", "\u2581 \u2581", "\u2581\u2581 \u2581\u2581", "\u0120 \u0120", ". .", "re t", "r e", "s t"]:
        a, b = pair.split(" ")
        if a in vocab and b in vocab:
            vocab.setdefault(a + b, len(vocab))
            merges.append([a, b])
    return {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges, **options}


def small(model=None, normalizer=None, pre=None, post=None, decoder=None, added=()):
    model = model or small_model()
    vocab, tokens = model["vocab"], []
    following = len(vocab)
    for content, options in added:
        tokens.append({"id": vocab.get(content, following), "content": content, "single_word": False, "lstrip": False,
                       "rstrip": False, "normalized": False, "special": True, **options})
        following += content not in vocab
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer,
            "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def affixed_model():
    vocab = {"<unk>": 0}
    for c in "abcdefghijklmnopqrstuvwxyzST":
        for form in (c, "##" + c, c + "</w>", "##" + c + "</w>"):
            vocab[form] = len(vocab)
    merges = []
    for a, b in [("t", "##h"), ("th", "##e</w>"), ("##e", "##r"), ("##l", "##l"), ("w", "##or"), ("##o", "##r")]:
        if a in vocab and b in vocab:
            vocab.setdefault(a + b[2:], len(vocab))
            merges.append([a, b])
    return {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": "##", "end_of_word_suffix": "</w>",
            "fuse_unk": True, "byte_fallback": False, "vocab": vocab, "merges": merges}


def small_tokenizers():
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    everything = split(r"[\s\S]+")
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        yield form, small(normalizer={"type": form}, pre=level, decoder=level)
    for left, right in ((True, True), (True, False), (False, True)):
        yield f"Strip {left} {right}", small(normalizer={"type": "Strip", "strip_left": left, "strip_right": right}, pre=level)
    yield "Replace", small(normalizer={"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Replace", "pattern": {"String": "a"}, "content": "the"}, {"type": "Prepend", "prepend": "in"}]}, pre=level)
    for unk in (True, False):
        for fall in (True, False):
            yield f"unknown fuse={unk} bytes={fall}", small(
                small_model(fuse_unk=unk, byte_fallback=fall), pre=meta,
                decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, meta]})
    yield "no unknown token", small(small_model(unk_token=None, ignore_merges=True), pre={"type": "WhitespaceSplit"})
    yield "affixes", small(affixed_model(), pre={"type": "Whitespace"})
    for scheme in ("first", "never", "always"):
        for cut in (True, False):
            yield f"Metaspace {scheme} {cut}", small(
                pre={**meta, "prepend_scheme": scheme, "split": cut}, decoder={**meta, "prepend_scheme": scheme},
                added=[("<x>", {}), ("<y>", {"normalized": True})])
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield f"Split {behavior} {invert}", small(pre={"type": "Sequence", "pretokenizers": [
                split(r"\p{N}|\s", behavior, invert), {**level, "use_regex": False}]})
    patterns = [r"\s*", r"\b", r"\w+|[^\w\s]+", r"(?<=[a-z])(?=[A-Z])", r"\p{Lu}\p{Ll}*|\P{L}", r"\d{1,3}+", r"[^\S\n]+", r"(?i)the|SELECT",
                r"\h+", r"[[:punct:]]+", r"^.", r".$", r"\p{Han}+|\p{M}+", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+", r"a{,2}", r"\p{S}|\p{P}",
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| "
                r"?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
    for pattern in patterns:
        yield f"pattern {pattern[:30]}", small(pre={"type": "Sequence", "pretokenizers": [split(pattern), {**level, "use_regex": False}]})
    yield "pattern text", small(pre={"type": "Sequence", "pretokenizers": [split(".", kind="String"), {**level, "add_prefix_space": True}]},
                                decoder=level)
    for single in (True, False):
        yield f"Digits {single}", small(pre={"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": single}, level]})
    yield "Punctuation", small(pre={"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Contiguous"}, level]})
    yield "everything", small(pre={"type": "Sequence", "pretokenizers": [everything, {**level, "use_regex": False}]})
    for options in ({}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True},
                    {"normalized": True, "single_word": True}, {"normalized": True, "lstrip": True, "special": False}):
        yield f"added {options}", small(
            normalizer={"type": "Lowercase"}, pre=level, decoder=level,
            added=[("<x>", options), ("<xy", options), ("the", options), ("A B", options), ("\u00c9", options)])
    yield "template", small(pre=level, decoder=level, added=[("<s>", {}), ("</s>", {})], post={"type": "Sequence", "processors": [
        {**level}, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                                           {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": [len(small_model()["vocab"])], "tokens": ["<s>"]},
                                       "</s>": {"id": "</s>", "ids": [len(small_model()["vocab"]) + 1], "tokens": ["</s>"]}}}]})
    yield "decoders", small(pre=meta, decoder={"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 0}]})
    yield "no decoder", small(pre=meta)


def compare_small(report):
    count = max(200, STRINGS // 40)
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, document) in enumerate(small_tokenizers()):
            path = pathlib.Path(folder) / "tokenizer.json"
            path.write_text(json.dumps(document))
            texts = strings(1000 + i, count, ["<x>", " <x> ", "<xy", "the", "THE", "a b", "A B", "\u00c9", "<s>", "<y>"])
            compare_json(report, f"small: {name}", path, texts, False)
        assigned = [*range(0xD800), *range(0xE000, 0x33480), *range(0xE0000, 0xE0200)]  # no other plane has any but private use
        everything = list(map(chr, assigned))
        texts = ["a".join(everything[i:i + 256]).encode() for i in range(0, len(everything), 256)]
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        classes = [split(p, "Contiguous") for p in (r"\p{L}", r"\p{N}", r"\s", r"\w", r"[[:punct:]]", r"[[:alpha:]]", r"\p{M}", r"\p{Lu}")]
        for name, parts in (("Split", classes), ("ByteLevel", [{**level, "use_regex": True}]), ("Whitespace", [{"type": "Whitespace"}]),
                            ("Digits", [{"type": "Digits", "individual_digits": False}]),
                            ("Punctuation", [{"type": "Punctuation", "behavior": "Contiguous"}]), ("WhitespaceSplit", [{"type": "WhitespaceSplit"}])):
            # The boundaries show as the spaces that every piece is given.
            seen = {**level, "add_prefix_space": True}
            path.write_text(json.dumps(small(pre={"type": "Sequence", "pretokenizers": [*parts, seen]})))
            compare_json(report, f"every code point: {name}", path, texts, False)
        for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
            path.write_text(json.dumps(small(normalizer={"type": form}, pre=level)))
            compare_json(report, f"every code point: {form}", path, texts, False)
        path.write_text(json.dumps(small(normalizer={"type": "NFC"}, pre=level)))
        texts = ["".join(f"{a}\u0345\u0301{c}\u0327" for a, c in zip("eaou" * 64, everything[i:i + 256])).encode()
                 for i in range(0, len(everything), 256)]
        compare_json(report, "every code point among marks: NFC", path, texts, False)


# --- what the test data holds ----------------------------------------------------------------------------------------


def llamacpp_vectors(report, folder):
    for name, tokenizer, extra in (("qwen2", "qwen2.5/tokenizer.json", 0), ("llama-bpe", "llama3.1_hf/tokenizer.json", 1),
                                   ("llama-spm", "llama2/tokenizer.model", 1)):
        source = folder / "llamacpp_vectors" / f"ggml-vocab-{name}.gguf.inp"
        texts = [t.encode() for t in source.read_text().split("\n__ggml_vocab_test__\n")]
        lines = (folder / "llamacpp_vectors" / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
        wrong = 0
        for text, answer, line in zip(texts, ask(folder / tokenizer, texts), lines):
            if answer[0][extra:] != [int(x) for x in line.split()]:
                show("ids", text, answer[0][extra:], line, wrong)
                wrong += 1
        report.line(f"vectors {name}", len(texts), {"ids": wrong})


def golden_samples(report, folder):
    """Mistral's recorded requests: the text between control symbols gives the recorded ids."""
    path = folder / "mistral" / "mistral_instruct_tokenizer_240323.model.v3"
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    runs = []
    for sample in sorted((folder / "mistral" / "samples").iterdir()):
        ids = json.loads((sample / "tokens_v3.json").read_text())
        run = []
        for i in (ids["tokens"] if isinstance(ids, dict) else ids) + [theirs.bos_id()]:
            if not theirs.is_control(i):
                run.append(i)
            elif run:
                runs.append(run)
                run = []
    texts = [theirs.decode(run).encode() for run in runs]
    wrong = sum(answer[0][1:] != run for run, answer in zip(runs, ask(path, texts)))
    report.line("golden samples", len(runs), {"ids": wrong})


def attached_specials(rng, specials):
    """Words around special tokens, as templates put them: no white space before one."""
    word = lambda: rng.choice([w for w in WORDS if "\u2581" not in w and w not in BYTES_OF_MODELS and "\u0000" not in w])
    return "".join(" ".join(word() for _ in range(rng.randrange(1, 4))) + rng.choice(specials) + rng.choice(["", " ", "\n", word()])
                   for _ in range(rng.randrange(1, 4))).replace(" <", "<").encode()


def model_folders(report, folder, root):
    """Of a model's folder special tokens are found wherever they stand: by transformers, and by both forms of Llama 2's
    tokenizer in the same way. Tokens that a folder adds to a tokenizer.model are found and decoded."""
    by_json, by_model, adding = root / "json", root / "model", root / "adding"
    for made in (by_json, by_model, adding):
        made.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "llama2_hf" / name, by_json)
    for made in (by_model, adding):
        shutil.copy(folder / "llama2/tokenizer.model", made)
    (adding / "added_tokens.json").write_text('{"<|im_end|>": 32001, "<|im_start|>": 32000}')
    theirs = transformers.AutoTokenizer.from_pretrained(by_json)
    rng = random.Random(11)
    texts = [attached_specials(rng, ["</s>", "<s>"]) for _ in range(2000)]
    added = [t.replace(b"<s>", b"<|im_start|>").replace(b"</s>", b"<|im_end|>") for t in texts]
    wrong = {"ids": 0, "of both forms": 0, "with added tokens": 0, "decoded": 0}
    for text, a, b, c in zip(texts, ask(by_json, texts), ask(by_model, texts), ask(adding, added)):
        expected = theirs(text.decode()).input_ids
        swapped = expected[:1] + [{1: 32000, 2: 32001}.get(i, i) for i in expected[1:]]
        decoded = text.decode().replace("<s>", "<|im_start|>").replace("</s>", "<|im_end|>")
        for kind, ours, right in (("ids", a[0], expected), ("of both forms", b[0], expected), ("with added tokens", c[0], swapped),
                                  ("decoded", c[2].decode(), decoded)):
            if ours != right:
                show(kind, text, ours, right, wrong[kind])
                wrong[kind] += 1
    report.line("special tokens of a model's folder", len(texts), wrong)


def real_tokenizers(report):
    folder = DATA / "tokenizers"
    if not folder.is_dir():
        print(f"SKIPPED: no test data in {folder}: only the small tokenizers were compared")
        return
    for path in sorted(folder.glob("*/tokenizer.json")):
        specials = [t["content"] for t in json.loads(path.read_text())["added_tokens"]][:40]
        compare_json(report, path.parent.name, path, strings(7, STRINGS, specials), True)
    for path in (folder / "llama2/tokenizer.model", folder / "mistral/tokenizer.model.v1",
                 folder / "mistral/mistral_instruct_tokenizer_240323.model.v3"):
        compare_sentencepiece(report, f"{path.parent.name}/{path.name}", path, strings(8, STRINGS, ["<s>", "</s>", "[INST]", "[/INST]"]))
    llamacpp_vectors(report, folder)
    golden_samples(report, folder)
    with tempfile.TemporaryDirectory() as root:
        model_folders(report, folder, pathlib.Path(root))
        rank_files(report, folder, pathlib.Path(root))
        unigram_models(report, DATA, pathlib.Path(root))


def main():
    if PROBE is None:
        sys.exit(f"probe_tokenize is not built in {BUILD}")
    report = Report()
    real_tokenizers(report)
    compare_small(report)
    print(f"{report.failed} differences")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
