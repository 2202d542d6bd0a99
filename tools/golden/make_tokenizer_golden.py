#!/usr/bin/env python3
"""Writes tests/golden/tokenizer_*.jsonl: tiny tokenizers, texts, and what Hugging Face's tokenizers makes of them.

usage: make_tokenizer_golden.py OUT [PREFIX]      (tests/golden; only files whose name begins so)

Line 1 of a file is {"library", "version", "tokenizer"}, the last being a whole tokenizer.json; every further line is
{"text", "ids", "offsets"}: one text with its special tokens, offsets in bytes of UTF-8. Needs only `tokenizers`.
"""
import base64
import json
import pathlib
import struct
import sys

import tokenizers
from tokenizers import Tokenizer, models, trainers

CORPUS = """
The keeper lit the lamp before the storm came in, and the children counted the seconds between light and thunder.
Nobody in the village had seen a whale that year; they waited, unbelieving, on the wet stones of the harbour.
When the letter arrived it was unreadable, unbearable and, in the end, unnecessary. She kept it all the same.
La anciana del molino sabía que el río volvería a crecer, y guardó la harina en el desván de la casa más alta.
¿Quién llamó anoche? Nadie contestó: sólo el viento, la lluvia y aquel perro que ladraba junto a la cancela.
Os pescadores não voltaram à praia; as mães acenderam fogueiras e esperaram pela manhã, sem dizer uma palavra.
A canção que a avó cantava falava de um coração de pão, de um irmão distante e de três laranjas de ouro.
The counting, the waiting, the lighting and the keeping were all there was: reading, writing, and then sleeping.
""".strip().split("\n")

# Of byte-pair encoding, before all others.
BPE_TEXTS = [
    "I'll don't DON'T we'VE 'sound 'S 12345 1 a1b22c333d4444", "the lamp  lamps\n\n  lamps\t\tx \n", "ABCdef XYZ's Zz/\n/",
    "<|im_end|>the<|endoftext|>  <tag>  lamp", "a \u2581b\u2581 \u2581 c", "x\u00a0\u3000 y  \u3000z", "٣٤٥ ²³ Ⅷ½",
]

TEXTS = [
    "", " ", "   ", "\n", "a", "The keeper lit the lamp.", "the  keeper   counted", " leading and trailing ",
    "unreadable unbearable unbelieving harbours", "¿Quién llamó anoche?", "A canção da avó — três laranjas…",
    "tabs\tand\nlines\r\nand more\n\nlines", "e\u0301tude cafe\u0301 a\u0308o\u0308u\u0308", "ÁÉÍÓÚ ÀÂÃ Ç Ñ ÜÏ",
    "İstanbul ıI ß ẞ Σς", "ＦＵＬＬ ｗｉｄｔｈ１２３！", "ﬁre ﬂow ﬃ ㎞ ① ½ ™ ﷺ", "中国語と日本語 한국어 문장", "这很简单。The lamp",
    "हिन्दी में தமிழ் ภาษาไทย", "العربية لغة جميلة", "שָׁלוֹם עולם", "👩‍👩‍👧‍👦 👍🏽 🇪🇸🇵🇹 ❤️‍🔥 1️⃣", "🚀🚀 go!",
    "x\u200by\u200dz\ufeffw\u00adv", "z\x01start \x7fmid\x02dle end\x03", "nul\x00inside", "\u00a0no\u00a0break\u2003em\u3000wide",
    "don't can't it's 3.14 1,000 50%", "a.b,c;d:e!f?g(h)i[j]k{l}m\"n'o", "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "<s> </s> <unk> <mask>x", "x [MASK] y[MASK]z", "the <mask> lamp", "  <tag>  word<tag> <tag>word Lamplight lamplight",
    "LAMPLIGHT", "lamplights", "▁the▁lamp ▁", "##the ##ing #", "a" * 40, "supercalifragilisticexpialidocious" * 4,
    "\u0301\u0302 lone marks \u0323a\u0301", "〮́a〮 ̣〮", "q\u0307\u0323 q\u0323\u0307 ế ệ ṩ", "한글 한글", "Å Å Å",
    "\U0001d15e\U0001d1bb \U0002f800 豈 龜", "ǅ ǆ Ǆ Ⅷ ⅷ", "e\u0301" * 12, "\r\n\r\nx\r\n", "l'été où ça naïve cœur",
    "aaa the\u2028lamp\u2029x\u0085y", "¹²³ ₁₂ ªº", "…‥․ ‼ ⁇", "ﾊﾟﾋﾟ ｶﾞ パピ", "\ue000\uf8ff private", "\ufffd replaced",
    "one.Two.three  four", "mixed中the文lamp字", "…and… so…", "A—B–C-D", "”quoted“ ‘single’ «angles»",
]

# What the small character map replaces: rules of NFKC's kind, deletions, a cluster, white space.
CHARSMAP = {
    "\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u2003": " ", "\u3000": " ", "\u2028": " ", "\u0085": " ",
    "\x01": "", "\x02": "", "\x03": "", "\x7f": "", "\u200b": " ", "\ufeff": "", "\u00ad": "",
    "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "㎞": "km", "①": "1", "½": "1⁄2", "™": "TM", "…": "...", "‥": "..", "․": ".",
    "Ｆ": "F", "Ｕ": "U", "Ｌ": "L", "ｗ": "w", "ｉ": "i", "ｄ": "d", "ｔ": "t", "ｈ": "h", "１": "1", "！": "!",
    "e\u0301": "é", "a\u0308": "ä", "o\u0308": "ö", "u\u0308": "ü", "q\u0307": "Q", "ª": "a", "º": "o", "²": "2",
    "ﾊﾟ": "パ", "ﾋﾟ": "ピ", "ｶﾞ": "ガ", "Å": "Å", "豈": "豈", "Ⅷ": "VIII", "Ǆ": "DŽ", "ẞ": "ss",
}


def darts(entries):
    """A double array as darts-clone lays it out: entries maps bytes to a number below 2^31."""
    tree = {}
    for key, value in entries.items():
        node = tree
        for byte in key:
            node = node.setdefault(byte, {})
        node[-1] = value
    units, used, offsets = [0] * 256, {0}, set()

    def place(node, at):
        labels = sorted(0 if label == -1 else label for label in node)
        offset = 1
        while offset in offsets or any(at ^ offset ^ label in used for label in labels):
            offset += 1
        offsets.add(offset)
        base = at ^ offset
        while len(units) <= base | 255:
            units.append(0)
        units[at] |= offset << 10
        used.update(base ^ label for label in labels)
        if -1 in node:
            units[at] |= 1 << 8
            units[base] = node[-1] | 1 << 31
        for label in labels:
            if label:
                units[base ^ label] |= label
                place(node[label], base ^ label)

    place(tree, 0)
    assert max(offsets) < 1 << 21
    return units


def charsmap():
    strings, entries = b"", {}
    for key, value in CHARSMAP.items():
        entries[key.encode()] = len(strings)
        strings += value.encode() + b"\0"
    units = darts(entries)
    return base64.b64encode(struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + strings).decode()


def added(content, id, **flags):
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return token | flags


def wordpiece(normalizer, extra=()):
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=normalizer["lowercase"])
    tok.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tok.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=260, special_tokens=specials, show_progress=False))
    vocab = json.loads(tok.to_str())["model"]["vocab"]
    for piece in ("中", "国", "▁", "##́", "é", "##é", ".", ",", "'", "¿", "[", "]", "🚀"):
        vocab.setdefault(piece, len(vocab))
    vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(s, vocab[s], special=True) for s in specials]
        + [added(content, len(vocab) + i, **flags) for i, (content, flags) in enumerate(extra)],
        "normalizer": {"type": "BertNormalizer"} | normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {s: {"id": s, "ids": [vocab[s]], "tokens": [s]} for s in ("[CLS]", "[SEP]")}},
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 30, "vocab": vocab},
    }


def unigram(normalizer, pre_tokenizer, byte_fallback=False):
    tok = Tokenizer(models.Unigram())
    tok.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=240, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>",
                                      show_progress=False)
    tok.train_from_iterator(CORPUS, trainer)
    vocab = json.loads(tok.to_str())["model"]["vocab"]
    known = {piece for piece, _ in vocab}
    for piece, score in (("▁", -3.5), ("▁lamp", -4.25), ("light", -4.5), ("中", -6), ("fi", -5.125), (".", -4), ("km", -7.1),
                         ("パ", -6), ("é", -5.5), ("...", -6), ("🚀", -8)):
        if piece not in known:
            vocab.append([piece, score])
    if byte_fallback:
        vocab += [[f"<0x{byte:02X}>", -15.0] for byte in range(256)]
    vocab.append(["<mask>", 0.0])
    ids = {piece: i for i, (piece, _) in enumerate(vocab)}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(s, ids[s], special=True, lstrip=s == "<mask>") for s in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", ids["</s>"]], "cls": ["<s>", ids["<s>"]],
                           "trim_offsets": False, "add_prefix_space": False},
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": vocab, "byte_fallback": byte_fallback},
    }


def sequence(kind, *items):
    return {"type": "Sequence", kind: list(items)}


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SIGNS = r" ?[^\s\p{L}\p{N}]+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "llama3": f"{CONTRACTIONS}|{BEFORE}\\p{{L}}+|\\p{{N}}{{1,3}}|{SIGNS}[\\r\\n]*|{SPACES}",
    "qwen2": f"{CONTRACTIONS}|{BEFORE}\\p{{L}}+|\\p{{N}}|{SIGNS}[\\r\\n]*|{SPACES}",
    "gpt4o": f"{BEFORE}{UPPER}*{LOWER}+{CONTRACTIONS}?|{BEFORE}{UPPER}+{LOWER}*{CONTRACTIONS}?|\\p{{N}}{{1,3}}|"
             f"{SIGNS}[\\r\\n/]*|{SPACES}",
}


def byte_bpe(pre_tokenizer, normalizer=None, trim=False, ignore_merges=False):
    """Trained without any splitting, so that merges reach over the places where text is to be split."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<|endoftext|>", "<|im_end|>"], show_progress=False,
                                  initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(CORPUS + ["don't I'll we've 123 1,000 3.14", "a  b   c\n\nd"] * 2, trainer)
    model = json.loads(tok.to_str())["model"]
    model["vocab"]["Ġlamps"] = len(model["vocab"])  # no merges lead to it
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(s, i, special=True) for i, s in enumerate(("<|endoftext|>", "<|im_end|>"))]
        + [added("<tag>", len(model["vocab"]), rstrip=True)],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": trim, "use_regex": True},
        "decoder": None, "model": model | {"ignore_merges": ignore_merges},
    }


def spm_bpe(normalizer, pre_tokenizer, byte_fallback=True):
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    tok.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    specials = ["<unk>", "<s>", "</s>"] + ([f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else [])
    trainer = trainers.BpeTrainer(vocab_size=600 if byte_fallback else 300, special_tokens=specials, show_progress=False)
    tok.train_from_iterator(CORPUS, trainer)
    model = json.loads(tok.to_str())["model"]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(s, i, special=True, normalized=i == 0) for i, s in enumerate(specials[:3])],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "model": model,
    }


def bpe_files():
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    gpt2 = plain | {"use_regex": True}
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}

    def split(name):
        pattern = {"type": "Split", "pattern": {"Regex": PATTERNS[name]}, "behavior": "Isolated", "invert": False}
        return sequence("pretokenizers", pattern, plain)

    yield "bpe_gpt2", byte_bpe(gpt2 | {"add_prefix_space": True}, trim=True)
    yield "bpe_smollm", byte_bpe(sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, gpt2))
    yield "bpe_llama3", byte_bpe(split("llama3"), ignore_merges=True)
    yield "bpe_qwen2", byte_bpe(split("qwen2"), normalizer={"type": "NFC"})
    yield "bpe_gpt4o", byte_bpe(split("gpt4o"))
    yield "bpe_llama", spm_bpe(sequence("normalizers", {"type": "Prepend", "prepend": "▁"},
                                        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}), None)
    yield "bpe_metaspace", spm_bpe(None, meta)
    yield "bpe_unknown", spm_bpe(None, meta | {"prepend_scheme": "always", "split": True}, byte_fallback=False)


def tokenizer_files():
    yield from bpe_files()
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    mapped = {"type": "Precompiled", "precompiled_charsmap": charsmap()}
    bert = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    yield "wordpiece_uncased", wordpiece(bert)
    yield "wordpiece_cased", wordpiece(bert | {"lowercase": False})
    yield "wordpiece_accents", wordpiece(bert | {"strip_accents": False, "clean_text": False})
    yield "wordpiece_added", wordpiece(
        bert, [("<tag>", {"lstrip": True, "rstrip": True}), ("Lamplight", {"normalized": True, "single_word": True}),
               ("the la", {"normalized": True}), ("<mask>", {"single_word": True})])
    yield "unigram_words", unigram(mapped, sequence("pretokenizers", {"type": "WhitespaceSplit"}, meta))
    yield "unigram_bytes", unigram(
        sequence("normalizers", mapped, {"type": "Strip", "strip_left": False, "strip_right": True},
                 {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}), meta, True)
    yield "unigram_nfkc", unigram(
        sequence("normalizers", {"type": "NFKC"}, {"type": "Lowercase"},
                 {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
                 {"type": "Replace", "pattern": {"String": "lamp"}, "content": "lantern"}), meta | {"prepend_scheme": "first"})
    yield "unigram_nfd", unigram(
        sequence("normalizers", {"type": "Nmt"}, {"type": "NFD"}, {"type": "StripAccents"}, {"type": "NFC"},
                 {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Prepend", "prepend": "▁"}),
        sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Isolated"},
                 meta | {"prepend_scheme": "never", "split": False}))


def main():
    out = pathlib.Path(sys.argv[1])
    for name, document in tokenizer_files():
        if not name.startswith(sys.argv[2] if len(sys.argv) > 2 else ""):
            continue
        tok = Tokenizer.from_str(json.dumps(document))
        with open(out / f"tokenizer_{name}.jsonl", "w", encoding="utf-8") as file:
            head = {"library": "tokenizers", "version": tokenizers.__version__, "tokenizer": document}
            file.write(json.dumps(head, ensure_ascii=False) + "\n")
            for text in BPE_TEXTS + TEXTS if name.startswith("bpe") else TEXTS:
                encoding = tok.encode(text)
                starts = [0]
                for char in text:
                    starts.append(starts[-1] + len(char.encode()))
                offsets = [[starts[a], starts[b]] for a, b in encoding.offsets]
                file.write(json.dumps({"text": text, "ids": encoding.ids, "offsets": offsets}) + "\n")


main()
