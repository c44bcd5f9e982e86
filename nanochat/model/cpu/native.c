/* What native.py calls: a few new tokens through the model, and a product with few rows. */
#include "native_layers.h"

#define EXPORT __attribute__((visibility("default")))

/* floats in whole cache lines */
static int64_t room(int64_t floats) { return (floats + 15) / 16 * 16; }

static int64_t private_room(const Model *m, int64_t time) {
    const int64_t num = m->heads / m->kv_heads * time;
    return room(num * (2 * m->head_dim + BLOCK + 2));
}

static void sizes_of(const Model *m, int64_t rows, int64_t *sizes) {
    const int64_t mamba = m->inner + conv_channels(m) + m->m_heads, qkv = qkv_channels(m);
    sizes[0] = room(rows * m->width);
    sizes[1] = room(rows * most(most(mamba, qkv), 2 * m->hidden));
    sizes[2] = room(rows * most(conv_channels(m), qkv));
    sizes[3] = room(rows * most(most(m->inner, m->heads * m->head_dim), m->hidden));
    sizes[4] = room(rows * most(m->rotated, 1));
}

EXPORT int64_t native_most_tokens(void) { return MOST_TOKENS; }

EXPORT int64_t native_has_threads(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* floats of scratch memory that native_forward needs */
EXPORT int64_t native_scratch(const Model *m, int64_t batch, int64_t time, int64_t threads) {
    int64_t sizes[5];
    sizes_of(m, batch * time, sizes);
    return 16 + sizes[0] + sizes[1] + sizes[2] + sizes[3] + sizes[4] + threads * private_room(m, time);
}

/* ids (batch, time) behind rows of the given lengths -> out (batch, time, width), and new states in place.
   Returns 0, or 1 with nothing written for an id outside of the vocabulary. */
EXPORT int64_t native_forward(const Model *m, const Layer *layers, const State *states, const int64_t *ids,
                              const int64_t *lengths, int64_t batch, int64_t time, float *out, float *scratch,
                              int64_t threads) {
    int64_t sizes[5];
    for (int64_t i = 0; i < batch * time; i++)
        if (ids[i] < 0 || ids[i] >= m->vocab) return 1;
    sizes_of(m, batch * time, sizes);
    scratch = (float *)(((uintptr_t)scratch + 63) / 64 * 64);
    Run all = {m, lengths, batch, time, batch * time, out, 0, 0, 0, 0, 0, 0, private_room(m, time), 0, 1};
    float **places[5] = {&all.normed, &all.projected, &all.mixed, &all.y, &all.turns};
    for (int i = 0; i < 5; i++) {
        *places[i] = scratch;
        scratch += sizes[i];
    }
    all.private = scratch;
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads((int)threads)
        {
            Run mine = all;
            mine.me = omp_get_thread_num();
            mine.of = omp_get_num_threads();
            forward_part(&mine, layers, states, ids);
        }
        return 0;
    }
#endif
    forward_part(&all, layers, states, ids);
    return 0;
}

/* y (rows, n) = x (rows, k) w^T with w (n, k) */
EXPORT void native_linear(const float *x, int64_t rows, const float *w, int64_t n, int64_t k, float *y,
                          int64_t threads) {
    const Result to = {y, n, NULL, 1.f, 0};
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads((int)threads)
        {
            Run run = {.me = omp_get_thread_num(), .of = omp_get_num_threads()};
            int64_t from, end;
            part(&run, n, 8, &from, &end);
            product(x, k, rows, w, k, k, from, end, &to);
        }
        return;
    }
#endif
    product(x, k, rows, w, k, k, 0, n, &to);
}
