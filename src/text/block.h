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

enum cabe_tokenizer_model { CABE_MODEL_WORDPIECE = 1, CABE_MODEL_UNIGRAM, CABE_MODEL_BPE };

enum cabe_section {
    CABE_SECTION_TOKENS,       /* text of all tokens, end to end */
    CABE_SECTION_TOKEN_ENDS,   /* u32 per token: where its text ends; it begins where the one before ends */
    CABE_SECTION_SCORES,       /* unigram: f64 per token, or f32 with CABE_FLAG_SCORES_F32 */
    CABE_SECTION_TRIE,         /* the model's tokens; not for BPE */
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
    CABE_SECTION_WORDS,        /* BPE: struct cabe_word, the model's tokens by their bytes */
    CABE_SECTION_MERGES,       /* BPE: struct cabe_merge, unless tokens merge by their scores */
    CABE_SECTION_CLASSES,      /* BPE: struct cabe_classes */
    CABE_SECTION_PAIRS,        /* BPE: a bit for every two bytes that stand side by side in some token */
    CABE_N_SECTIONS
};

#define CABE_FLAG_SCORES_F32 1u
#define CABE_FLAG_BYTE_FALLBACK 2u
#define CABE_FLAG_FIRST_SPACE 4u /* a space is put before a text, and not part of what its first token stands for */

#define CABE_FLAG_BYTE_LEVEL 8u     /* BPE begins with bytes; otherwise with characters */
#define CABE_FLAG_BY_SCORE 16u      /* two tokens merge where their text is a token, the best score first */
#define CABE_FLAG_FUSE_UNK 32u      /* unknown characters side by side are one unknown token */
#define CABE_FLAG_WHOLE_WORDS 256u  /* a word that is a token is not merged */
#define CABE_FLAG_TRIM_OFFSETS 64u  /* offsets leave out white space at the ends of a token */
#define CABE_FLAG_TRIM_PREFIX 128u  /* and of the first token one space less, for it was put there */

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
    CABE_PRE_SPACES,      /* words of BPE begin with a space */
    CABE_PRE_SPLIT,       /* by rule `number`, enum cabe_split_rule */
    CABE_N_PRETOKENIZERS
};
#define CABE_META_PREPEND_ALWAYS 1u
#define CABE_META_PREPEND_FIRST 2u
#define CABE_META_SPLIT 4u
#define CABE_META_PREPEND_BEGIN 8u /* a text's beginning, also before a space that is there already */
#define CABE_META_WORDS 16u        /* split between characters that no token has side by side */
#define CABE_DIGITS_SINGLE 1u

/* The regular expressions that models in use split by; see split.c. */
enum cabe_split_rule {
    CABE_SPLIT_GPT2 = 1,
    CABE_SPLIT_GPT2_DIGITS, /* each digit by itself before that */
    CABE_SPLIT_LLAMA3,
    CABE_SPLIT_QWEN2,
    CABE_SPLIT_QWEN35,
    CABE_SPLIT_GPT4O,
    CABE_SPLIT_TEKKEN,
    CABE_SPLIT_DEEPSEEK3,
    CABE_SPLIT_BREAK,
    CABE_SPLIT_LETTERS,
    CABE_SPLIT_SIGNS,
    CABE_SPLIT_PUNCTUATION, /* and the symbols of ASCII */
    CABE_SPLIT_LETTERS_DEEPSEEK,
    CABE_SPLIT_SIGNS_DEEPSEEK,
    CABE_SPLIT_CJK_DEEPSEEK,
    CABE_SPLIT_CJK_DEEPSEEK3,
    CABE_SPLIT_DIGIT,
    CABE_SPLIT_DIGITS,
    CABE_SPLIT_DIGITS3, /* one to three of them */
    CABE_SPLIT_ASCII_DIGITS3,
    CABE_SPLIT_LAST_SPACE,
    CABE_N_SPLIT_RULES
};

struct cabe_step { /* of normalising or pre-tokenizing */
    uint32_t kind, flags, number;
    uint32_t a, a_bytes, b, b_bytes; /* in CABE_SECTION_STRINGS */
    uint32_t reserved;
};

/*
 * A slot of an open hash table of tokens by their bytes. A text of up to 8 bytes is its own key; of a longer one the
 * key is a hash. A token is `whole` where merging its text gives just this token: then no merging is needed.
 */
struct cabe_word {
    uint64_t key;
    uint32_t rank;     /* of its score, 0 the best; with CABE_WORD_WHOLE */
    uint32_t id_bytes; /* id << 8 | its length, 255 for longer; CABE_WORD_EMPTY */
};
#define CABE_WORD_WHOLE 0x80000000u
#define CABE_WORD_EMPTY UINT32_MAX
#define CABE_PROBES_MAX 512u /* of a hash table */

/* Of pairs of ids, 24 bits each, to the id that they become and the rank: left, right, rank, id end to end. */
struct cabe_merge {
    uint32_t word[3]; /* all bits set: empty */
};

#define CABE_CLASS_SPACE 1u
#define CABE_CLASS_LETTER 2u
#define CABE_CLASS_NUMBER 4u
#define CABE_CLASS_MARK 8u
#define CABE_CLASS_PUNCTUATION 16u
#define CABE_CLASS_SYMBOL 32u
#define CABE_CLASS_UPPER 64u /* Lu, Lt */
#define CABE_CLASS_LOWER 128u
#define CABE_CLASS_PAGES 4352u /* of 256 code points */

#define CABE_PAIR_BYTES 8192u

struct cabe_classes { /* of code points */
    uint16_t pages[CABE_CLASS_PAGES]; /* which table of 256 classes a page has */
    uint8_t classes[];
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

enum cabe_cut {      /* where text may be cut before a space with nothing changed */
    CABE_CUT_NONE,
    CABE_CUT_LETTERS, /* between words of ASCII letters */
    CABE_CUT_WORDS,   /* between any */
    CABE_CUT_PAIRS,   /* anywhere between two characters that no token has side by side */
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
    const struct cabe_word *words; /* of BPE, as all up to classes */
    const struct cabe_merge *merges;
    size_t n_words, n_merges; /* slots */
    const struct cabe_classes *classes;
    const uint8_t *pairs;
    uint8_t byte_class[256]; /* of ASCII; 0 for others */
    int32_t byte_ids[256]; /* of ASCII characters, or of bytes with CABE_FLAG_BYTE_LEVEL; -1: none */
    struct cabe_charsmap charsmap; /* units NULL where there is none */
    uint32_t continuing_state;     /* of the trie after the mark of a continuing piece */
    int has_continuing;
    enum cabe_cut may_cut;         /* long text */
    uint8_t ascii_bert[128]; /* what the BERT normaliser makes of it; 0xFF: deleted */
    uint8_t ascii_bert_ready;
    uint8_t normal_bytes[256]; /* 1: some added token of normalised text has it */
    uint8_t added_first[256]; /* 1: some added token of the text as it is begins so */
};

#endif
