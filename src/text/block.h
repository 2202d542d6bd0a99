/*
 * The compiled tokenizer: its bytes, and the view of them that encoding uses. Internal to text/.
 *
 * A block is a header, then sections aligned to 8, at offsets that the header names. Numbers are little-endian, as
 * the machines are that cabe runs on; the magic number tells. Nothing in it is a pointer.
 *
 * Opening checks the checksum of every section, and then every index that encoding would follow, so that bytes
 * that are damaged or made up with a right checksum can give wrong tokens but no access outside the block.
 */
#ifndef CABE_TEXT_BLOCK_H
#define CABE_TEXT_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer.h"
#include "text/trie.h"

#define CABE_BLOCK_MAGIC 0x314b4f5445424143u /* "CABETOK1" */
#define CABE_BLOCK_VERSION 2u

enum cabe_tokenizer_model { CABE_MODEL_WORDPIECE = 1, CABE_MODEL_UNIGRAM };

enum cabe_section {
    CABE_SECTION_TOKENS,       /* text of all tokens, end to end */
    CABE_SECTION_TOKEN_ENDS,   /* u32 per token: where its text ends; it begins where the one before ends */
    CABE_SECTION_SCORES,       /* unigram: f64 per token, or f32 with CABE_FLAG_SCORES_F32 */
    CABE_SECTION_TRIE,         /* the model's tokens */
    CABE_SECTION_ADDED,        /* struct cabe_added, sorted as they were declared */
    CABE_SECTION_ADDED_TRIE,   /* added tokens found in the text as it is; values index CABE_SECTION_ADDED */
    CABE_SECTION_NORMAL_TRIE,  /* added tokens found in normalised text */
    CABE_SECTION_NORMALIZERS,  /* struct cabe_step */
    CABE_SECTION_PRETOKENIZERS, /* struct cabe_step */
    CABE_SECTION_STRINGS,      /* what steps refer to */
    CABE_SECTION_CHARSMAP,     /* sentencepiece's precompiled map, as in its file */
    CABE_SECTION_CHARACTERS,   /* u32 per code point below CABE_CHARACTERS */
    CABE_SECTION_KINDS,        /* u8 per token: CABE_KIND_* */
    CABE_SECTION_TEMPLATE,     /* text of the chat template */
    CABE_N_SECTIONS
};

#define CABE_FLAG_SCORES_F32 1u
#define CABE_FLAG_BYTE_FALLBACK 2u
#define CABE_FLAG_FIRST_SPACE 4u /* a space is put before a text, and not part of what its first token stands for */

#define CABE_KIND_ADDED 1u   /* found in text before the model sees it */
#define CABE_KIND_SPECIAL 2u /* and it is a control token, not text */
#define CABE_KIND_BYTE 4u    /* stands for one byte, "<0x0A>" */

#define CABE_SPECIALS_MAX 16
#define CABE_ENDS_MAX 16
#define CABE_STEPS_MAX 16
#define CABE_WORK_PIECE_BYTES (256u << 10) /* text without a good place to cut is cut after this many bytes */

enum cabe_normalizer {
    CABE_NORM_BERT = 1,
    CABE_NORM_PRECOMPILED,
    CABE_NORM_NFC,
    CABE_NORM_NFD,
    CABE_NORM_NFKC,
    CABE_NORM_NFKD,
    CABE_NORM_LOWERCASE,
    CABE_NORM_STRIP_ACCENTS,
    CABE_NORM_REPLACE,     /* string `a` by string `b` */
    CABE_NORM_REPLACE_RUN, /* `number` or more of the one character `a` (CABE_RUN_SPACE: any white space) by `b` */
    CABE_NORM_STRIP,
    CABE_NORM_PREPEND,
    CABE_NORM_NMT,
    CABE_N_NORMALIZERS
};
#define CABE_BERT_CLEAN 1u
#define CABE_BERT_CJK 2u
#define CABE_BERT_STRIP_ACCENTS 4u
#define CABE_BERT_LOWERCASE 8u
#define CABE_STRIP_LEFT 1u
#define CABE_STRIP_RIGHT 2u
#define CABE_RUN_SPACE 1u

enum cabe_pretokenizer {
    CABE_PRE_BERT = 1,
    CABE_PRE_WHITESPACE_SPLIT,
    CABE_PRE_WHITESPACE, /* runs of \w, runs of what is neither that nor white space */
    CABE_PRE_PUNCTUATION, /* each sign by itself */
    CABE_PRE_DIGITS,      /* runs of digits, or each with CABE_DIGITS_SINGLE */
    CABE_PRE_METASPACE,   /* spaces become `a`; words begin with it */
    CABE_N_PRETOKENIZERS
};
#define CABE_META_PREPEND_ALWAYS 1u
#define CABE_META_PREPEND_FIRST 2u
#define CABE_META_SPLIT 4u
#define CABE_DIGITS_SINGLE 1u

struct cabe_step { /* of normalising or pre-tokenizing */
    uint32_t kind, flags, number;
    uint32_t a, a_bytes, b, b_bytes; /* in CABE_SECTION_STRINGS */
    uint32_t reserved;
};

#define CABE_ADDED_SINGLE_WORD 1u
#define CABE_ADDED_LSTRIP 2u
#define CABE_ADDED_RSTRIP 4u
#define CABE_ADDED_NORMALIZED 8u
#define CABE_ADDED_SPECIAL 16u

struct cabe_added {
    int32_t id;
    uint32_t flags;
};

/* What is known of a code point: the low 21 bits are what it becomes under the BERT normaliser. */
#define CABE_CHARACTERS 0x3100u
#define CABE_CHARACTER_MASK 0x1FFFFFu
#define CABE_CHARACTER_COMPLEX 0x80000000u /* the BERT normaliser needs its neighbours, or it becomes several */
#define CABE_CHARACTER_DROP 0x40000000u    /* the BERT normaliser deletes it */
#define CABE_CHARACTER_SPACE 0x20000000u
#define CABE_CHARACTER_PUNCTUATION 0x10000000u
#define CABE_CHARACTER_PLAIN 0x08000000u /* cabe_char_is_plain() */

struct cabe_block_section {
    uint64_t offset, bytes, checksum;
};

struct cabe_block_header {
    uint64_t magic;
    uint32_t version, header_bytes;
    uint64_t bytes;           /* of the whole block */
    uint64_t header_checksum; /* of the header with this field 0 */
    uint32_t model, flags;
    uint32_t n_tokens, token_bytes_max;
    int32_t unk_id; /* -1: none */
    uint32_t word_characters_max;
    uint32_t prefix_bytes; /* WordPiece: of the mark of a continuing piece, in STRINGS */
    uint32_t prefix;
    double score_min;
    uint64_t truncate_tokens; /* what the source says; 0: nothing */
    uint32_t n_before, n_after;
    int32_t before[CABE_SPECIALS_MAX], after[CABE_SPECIALS_MAX]; /* special tokens around a text */
    int32_t roles[CABE_N_TOKEN_ROLES]; /* -1: none */
    uint32_t n_ends;
    int32_t ends[CABE_ENDS_MAX]; /* where generating stops */
    int32_t byte_ids[256]; /* with CABE_FLAG_BYTE_FALLBACK; -1: no such token */
    struct cabe_block_section sections[CABE_N_SECTIONS];
};

uint64_t cabe_block_checksum(const void *bytes, size_t n);

struct cabe_ascii_rule { /* of the precompiled map */
    uint32_t begin;
    uint32_t bytes;
    uint32_t is_mapped;
};

struct cabe_charsmap {
    const uint32_t *units;
    size_t n_units;
    const uint8_t *strings; /* NUL-terminated ones; the last may lack it */
    size_t string_bytes;
    struct cabe_ascii_rule ascii[128];
};

struct cabe_tokenizer {
    const struct cabe_block_header *header;
    const uint8_t *tokens;
    const uint32_t *token_ends;
    const float *scores_f32;
    const double *scores_f64;
    const struct cabe_trie_unit *trie, *added_trie, *normal_trie; /* the last two NULL where empty */
    const struct cabe_added *added;
    size_t n_added;
    const struct cabe_step *normalizers, *pretokenizers;
    size_t n_normalizers, n_pretokenizers;
    const uint8_t *strings;
    const uint32_t *characters;
    const uint8_t *kinds;
    const char *chat_template; /* NULL: none */
    size_t chat_template_bytes, decode_max;
    struct cabe_charsmap charsmap; /* units NULL where there is none */
    uint32_t continuing_state;     /* of the trie after the mark of a continuing piece */
    int has_continuing;
    int may_cut;          /* long text may be cut before a space between two letters */
    uint8_t ascii_bert[128]; /* what the BERT normaliser makes of it; 0xFF: deleted */
    uint8_t ascii_bert_ready;
    uint8_t added_first[256]; /* 1: some added token of the text as it is begins so */
};

#endif
