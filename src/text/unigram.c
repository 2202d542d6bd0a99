#include "base/memory.h"
#include "text/unicode.h"
#include "text/work.h"

#define UNREACHED UINT32_MAX
#define UNKNOWN_PENALTY 10.0

static enum cabe_status grow_nodes(struct cabe_encode_work *work, size_t n, struct cabe_error *err)
{
    size_t wanted = work->n_nodes ? work->n_nodes : 256;
    void *grown;

    if (n <= work->n_nodes)
        return CABE_OK;
    while (wanted < n)
        wanted *= 2;
    grown = cabe_realloc(work->nodes, wanted, sizeof *work->nodes);
    if (!grown)
        return cabe_fail(err, CABE_ERR_OOM, "lattice of %zu nodes", wanted);
    work->nodes = grown;
    work->n_nodes = wanted;
    return CABE_OK;
}

static double score_of(const struct cabe_tokenizer *tokenizer, int32_t id)
{
    return tokenizer->scores_f32 ? (double)tokenizer->scores_f32[id] : tokenizer->scores_f64[id];
}

static void reach(struct cabe_viterbi_node *node, double score, size_t from, int32_t id)
{
    if (node->from == UNREACHED || score > node->score)
        *node = (struct cabe_viterbi_node){score, (uint32_t)from, id};
}

/* Best path to every byte of the word; sums are doubles in the reference's order. */
static void forward(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *word,
                    struct cabe_viterbi_node *nodes)
{
    const struct cabe_trie_unit *trie = tokenizer->trie;
    double unk_score = tokenizer->header->score_min - UNKNOWN_PENALTY;
    size_t max = tokenizer->header->token_bytes_max, at = 0;

    for (size_t i = 1; i <= word->n; i++)
        nodes[i].from = UNREACHED;
    nodes[0] = (struct cabe_viterbi_node){0, 0, 0};
    while (at < word->n) {
        size_t step = cabe_utf8_length(word->bytes[at]);
        size_t stop = word->n - at > max ? at + max : word->n;
        uint32_t state = cabe_trie_root(trie);
        double so_far = nodes[at].score;
        int has_single = 0;
        int32_t id;

        for (size_t i = at; i < stop && cabe_trie_step(trie, &state, word->bytes[i], &id); i++) {
            if (id < 0)
                continue;
            reach(&nodes[i + 1], so_far + score_of(tokenizer, id), at, id);
            has_single |= i + 1 - at == step;
        }
        if (!has_single)
            reach(&nodes[at + step], so_far + unk_score, at, tokenizer->header->unk_id);
        at += step;
    }
}

/* Neighbouring unknown characters are one token, or their bytes where every one of them has a token. */
static enum cabe_status push_unknown(const struct cabe_tokenizer *tokenizer, const struct cabe_piece *word,
                                     size_t begin, size_t end, struct cabe_encoding *encoding,
                                     struct cabe_error *err)
{
    int32_t id = cabe_trie_find(tokenizer->trie, word->bytes + begin, end - begin);
    int by_bytes = id < 0 && (tokenizer->header->flags & CABE_FLAG_BYTE_FALLBACK);
    struct cabe_range range = cabe_piece_range(word, begin, end);
    enum cabe_status status = CABE_OK;

    for (size_t i = begin; by_bytes && i < end; i++)
        by_bytes = tokenizer->header->byte_ids[word->bytes[i]] >= 0;
    if (!by_bytes)
        return cabe_encoding_push(encoding, id >= 0 ? id : tokenizer->header->unk_id, range, err);
    for (size_t i = begin; status == CABE_OK && i < end; i++)
        status = cabe_encoding_push(encoding, tokenizer->header->byte_ids[word->bytes[i]], range, err);
    return status;
}

/* Turns the links of the best path round: a node on it then says where its token ends, and which it is. */
static void turn_round(struct cabe_viterbi_node *nodes, size_t n)
{
    struct cabe_viterbi_node link = nodes[n];

    while (n > 0) {
        struct cabe_viterbi_node before = nodes[link.from];

        nodes[link.from].from = (uint32_t)n;
        nodes[link.from].id = link.id;
        n = link.from;
        link = before;
    }
}

enum cabe_status cabe_unigram(const struct cabe_tokenizer *tokenizer, struct cabe_encode_work *work,
                              const struct cabe_piece *word, struct cabe_encoding *encoding,
                              struct cabe_error *err)
{
    int32_t unk_id = tokenizer->header->unk_id;
    enum cabe_status status = grow_nodes(work, word->n + 1, err);

    if (status != CABE_OK)
        return status;
    forward(tokenizer, word, work->nodes);
    turn_round(work->nodes, word->n);
    for (size_t at = 0, end; at < word->n && status == CABE_OK; at = end) {
        int32_t id = work->nodes[at].id;

        end = work->nodes[at].from;
        if (id != unk_id) {
            status = cabe_encoding_push(encoding, id, cabe_piece_range(word, at, end), err);
            continue;
        }
        while (end < word->n && work->nodes[end].id == unk_id)
            end = work->nodes[end].from;
        status = push_unknown(tokenizer, word, at, end, encoding, err);
    }
    return status;
}
