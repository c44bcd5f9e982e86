/* A few new tokens through the whole model in one call: float32, on the cached state, without gradients.

   What it computes is written down in language_model.py, blocks.py, attention.py, mamba.py and layers.py. Threads share
   the rows of matrices, the heads and the channels; every weight is read once per call. */
#ifndef NATIVE_LAYERS_H
#define NATIVE_LAYERS_H

#include "native_math.h"

#ifdef _OPENMP
#include <omp.h>
#define BARRIER _Pragma("omp barrier")
#else
#define BARRIER
#endif

#define MOST_TOKENS 16 /* new ones per row */

/* The same order of fields as in native.py; each takes 8 bytes. */
typedef struct {
    int64_t is_mamba;
    const float *mixer_norm, *mlp_norm, *mlp_in, *mlp_in_bias, *mlp_out, *mlp_out_bias; /* mlp_norm NULL: no MLP */
    const float *in, *in_bias, *k, *k_bias, *v, *v_bias, *out, *out_bias; /* in is q_proj or in_proj */
    const float *conv, *conv_bias, *dt_bias, *a_log, *d, *gate_norm;
} Layer;

typedef struct {
    int64_t num_layers, width, hidden, vocab;
    int64_t heads, kv_heads, head_dim, kernel, rotated;         /* T blocks */
    int64_t inner, state, groups, m_heads, headdim, conv_width; /* M blocks */
    double eps, residual, embed_scale, scale, dt_floor, dt_ceiling;
    const float *embed, *norm, *frequency;
} Model;

typedef struct {
    float *conv, *first, *second; /* tail; SSM state, or keys and values */
    int64_t capacity;             /* positions of keys and values */
} State;

typedef struct {
    const Model *model;
    const int64_t *lengths;
    int64_t batch, time, rows; /* rows = batch * time */
    float *x, *normed, *projected, *mixed, *y, *turns, *private;
    int64_t private_size;
    int me, of; /* this thread, number of threads */
} Run;

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t conv_channels(const Model *m) { return m->inner + 2 * m->groups * m->state; }
static int64_t qkv_channels(const Model *m) { return (m->heads + 2 * m->kv_heads) * m->head_dim; }

/* This thread's part of n things in units that stay together. */
static void part(const Run *r, int64_t n, int64_t unit, int64_t *from, int64_t *to) {
    int64_t units = (n + unit - 1) / unit;
    *from = units * r->me / r->of * unit;
    *to = units * (r->me + 1) / r->of * unit;
    if (*to > n) *to = n;
}

/* y (+)= scale * (x w^T + bias): w (n, k); this thread's columns of y */
static void linear(const Run *r, const float *x, int64_t k, const float *w, const float *bias, int64_t n, Result to) {
    int64_t from, end;
    part(r, n, 8, &from, &end);
    to.bias = bias;
    product(x, k, r->rows, w, k, k, from, end, &to);
}

static void norm_rows(const Run *r, float *y, const float *weight) {
    int64_t from, to, width = r->model->width;
    part(r, r->rows, 1, &from, &to);
    for (int64_t m = from; m < to; m++) rms_norm(y + m * width, r->x + m * width, weight, width, r->model->eps);
}

/* Causal convolution behind the tail (batch, taps - 1, channels), and the next tail; SiLU where wanted. */
static void convolve(const Run *r, const float *x, int64_t ldx, float *y, int64_t channels, int64_t taps,
                     const float *weight, const float *bias, float *tail, int has_silu) {
    int64_t from, to, time = r->time;
    part(r, channels, WIDTH, &from, &to);
    for (int64_t b = 0; b < r->batch; b++, tail += (taps - 1) * channels) {
        const float *rows = x + b * time * ldx;
        for (int64_t t = 0; t < time; t++) {
            float *out = y + (b * time + t) * channels;
            for (int64_t c = from; c < to; c++) out[c] = bias ? bias[c] : 0.f;
            for (int64_t j = 0; j < taps; j++) {
                int64_t place = t + j - (taps - 1);
                const float *in = place < 0 ? tail + (place + taps - 1) * channels : rows + place * ldx;
                for (int64_t c = from; c < to; c++) out[c] += weight[c * taps + j] * in[c];
            }
            if (has_silu) silu_times(out + from, out + from, NULL, to - from);
        }
        for (int64_t j = 0; j < taps - 1; j++) {
            int64_t place = j + time - (taps - 1);
            const float *in = place < 0 ? tail + (place + taps - 1) * channels : rows + place * ldx;
            memcpy(tail + j * channels + from, in + from, (to - from) * sizeof(float));
        }
    }
}

/* state = decay * state + dt x B^T and y = state C + D x over `time` tokens of one head; x, b, c have stride ld */
static void scan_head(const Model *m, int64_t time, float *state, const float *x, const float *b, const float *c,
                      int64_t ld, const float *dt, const float *decay, float d, float *y) {
    const int64_t n = m->state, full = n / WIDTH * WIDTH;
    for (int64_t p = 0; p < m->headdim; p++, state += n) {
        for (int64_t t = 0; t < time; t++) {
            const float *bt = b + t * ld, *ct = c + t * ld;
            const float in = x[t * ld + p], added = in * dt[t];
            vec total = {0};
            for (int64_t i = 0; i < full; i += WIDTH) {
                vec s = load(state + i) * decay[t] + added * load(bt + i);
                store(state + i, s);
                total += s * load(ct + i);
            }
            float value = sum(total);
            for (int64_t i = full; i < n; i++) {
                state[i] = state[i] * decay[t] + added * bt[i];
                value += state[i] * ct[i];
            }
            y[t * m->inner + p] = value + d * in;
        }
    }
}

static void mamba(const Run *r, const Layer *l, const State *s) {
    const Model *m = r->model;
    const int64_t channels = conv_channels(m), size = m->groups * m->state, width = m->inner + channels + m->m_heads;
    const int64_t per_group = m->inner / m->groups;
    int64_t from, to;
    linear(r, r->normed, m->width, l->in, l->in_bias, width, (Result){r->projected, width, NULL, 1.f, 0});
    BARRIER
    convolve(r, r->projected + m->inner, width, r->mixed, channels, m->conv_width, l->conv, l->conv_bias, s->conv, 1);
    BARRIER
    part(r, r->batch * m->m_heads, 1, &from, &to);
    for (int64_t unit = from; unit < to; unit++) {
        const int64_t row = unit / m->m_heads * r->time, head = unit % m->m_heads;
        const float *in = r->mixed + row * channels, *b = in + m->inner + head / (m->m_heads / m->groups) * m->state;
        float dt[MOST_TOKENS], decay[MOST_TOKENS];
        for (int64_t t = 0; t < r->time; t++) {
            float v = r->projected[(row + t) * width + m->inner + channels + head] + l->dt_bias[head];
            v = v > 20.f ? v : log1pf(expf(v));
            v = v < (float)m->dt_floor ? (float)m->dt_floor : v;
            dt[t] = v > (float)m->dt_ceiling ? (float)m->dt_ceiling : v;
            decay[t] = expf(dt[t] * -expf(l->a_log[head]));
        }
        scan_head(m, r->time, s->first + unit * m->headdim * m->state, in + head * m->headdim, b, b + size, channels,
                  dt, decay, l->d[head], r->y + row * m->inner + head * m->headdim);
    }
    BARRIER
    part(r, r->rows * m->groups, 1, &from, &to);
    for (int64_t unit = from; unit < to; unit++) {
        const int64_t row = unit / m->groups, start = unit % m->groups * per_group;
        float *y = r->y + row * m->inner + start;
        silu_times(y, r->projected + row * width + start, y, per_group);
        rms_norm(y, y, l->gate_norm + start, per_group, m->eps);
    }
    BARRIER
    linear(r, r->y, m->inner, l->out, l->out_bias, m->width, (Result){r->x, m->width, NULL, m->residual, 1});
}

/* All new tokens of one row through the query heads of one key head; qkv (rows, channels) is turned and stored. */
static void attend(const Run *r, const State *s, float *qkv, int64_t ld, int64_t b, int64_t group) {
    const Model *m = r->model;
    const int64_t d = m->head_dim, each = m->heads / m->kv_heads, past = r->lengths[b], time = r->time;
    const int64_t num = each * time;
    float *keys = s->first + (b * m->kv_heads + group) * s->capacity * d;
    float *values = s->second + (b * m->kv_heads + group) * s->capacity * d;
    float *q = r->private + r->me * r->private_size, *scores = q + num * d, *largest = scores + num * BLOCK;
    float *total = largest + num, *y = total + num;
    for (int64_t t = 0; t < time; t++) {
        float *row = qkv + (b * time + t) * ld, *turns = r->turns + (b * time + t) * m->rotated;
        float *key = keys + (past + t) * d;
        memcpy(q + t * each * d, row + group * each * d, each * d * sizeof(float));
        memcpy(key, row + (m->heads + group) * d, d * sizeof(float));
        memcpy(values + (past + t) * d, row + (m->heads + m->kv_heads + group) * d, d * sizeof(float));
        if (m->rotated == 0) continue;
        for (int64_t h = 0; h < each; h++) rotate(q + (t * each + h) * d, turns, m->rotated);
        rotate(key, turns, m->rotated);
    }
    for (int64_t i = 0; i < num; i++) largest[i] = -INFINITY, total[i] = 0.f;
    memset(y, 0, num * d * sizeof(float));
    for (int64_t start = 0; start < past + time; start += BLOCK) {
        const int64_t here = start + BLOCK < past + time ? BLOCK : past + time - start;
        product(q, d, num, keys + start * d, d, d, 0, here, &(Result){scores, BLOCK, NULL, m->scale, 0});
        for (int64_t i = 0; i < num; i++) {
            /* a token sees itself and what stands before it */
            const int64_t seen = past + i / each + 1 - start;
            if (seen > 0)
                look(scores + i * BLOCK, seen < here ? seen : here, values + start * d, d, largest + i, total + i,
                     y + i * d);
        }
    }
    for (int64_t i = 0; i < num; i++) {
        float *out = r->y + ((b * time + i / each) * m->heads + group * each + i % each) * d;
        for (int64_t c = 0; c < d; c++) out[c] = y[i * d + c] / total[i];
    }
}

static void attention(const Run *r, const Layer *l, const State *s) {
    const Model *m = r->model;
    const int64_t q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim, channels = qkv_channels(m);
    float *qkv = r->projected;
    int64_t from, to;
    linear(r, r->normed, m->width, l->in, l->in_bias, q, (Result){qkv, channels, NULL, 1.f, 0});
    linear(r, r->normed, m->width, l->k, l->k_bias, kv, (Result){qkv + q, channels, NULL, 1.f, 0});
    linear(r, r->normed, m->width, l->v, l->v_bias, kv, (Result){qkv + q + kv, channels, NULL, 1.f, 0});
    BARRIER
    if (m->kernel) {
        convolve(r, qkv, channels, r->mixed, channels, m->kernel, l->conv, NULL, s->conv, 0);
        qkv = r->mixed;
        BARRIER
    }
    part(r, r->batch * m->kv_heads, 1, &from, &to);
    for (int64_t unit = from; unit < to; unit++) attend(r, s, qkv, channels, unit / m->kv_heads, unit % m->kv_heads);
    BARRIER
    linear(r, r->y, q, l->out, l->out_bias, m->width, (Result){r->x, m->width, NULL, m->residual, 1});
}

static void mlp(const Run *r, const Layer *l) {
    const Model *m = r->model;
    const int64_t hidden = m->hidden;
    int64_t from, to;
    part(r, hidden, 8, &from, &to);
    /* columns of the gate, and the same columns of what it lets through */
    product(r->normed, m->width, r->rows, l->mlp_in, m->width, m->width, from, to,
            &(Result){r->projected, 2 * hidden, l->mlp_in_bias, 1.f, 0});
    product(r->normed, m->width, r->rows, l->mlp_in + hidden * m->width, m->width, m->width, from, to,
            &(Result){r->projected + hidden, 2 * hidden, l->mlp_in_bias ? l->mlp_in_bias + hidden : NULL, 1.f, 0});
    for (int64_t row = 0; row < r->rows; row++) {
        const float *gate = r->projected + row * 2 * hidden + from;
        silu_times(r->y + row * hidden + from, gate, gate + hidden, to - from);
    }
    BARRIER
    linear(r, r->y, hidden, l->mlp_out, l->mlp_out_bias, m->width, (Result){r->x, m->width, NULL, m->residual, 1});
}

static void forward_part(const Run *r, const Layer *layers, const State *states, const int64_t *ids) {
    const Model *m = r->model;
    int64_t from, to;
    part(r, r->rows, 1, &from, &to);
    for (int64_t row = from; row < to; row++) {
        const float *embedded = m->embed + ids[row] * m->width;
        const float position = r->lengths[row / r->time] + row % r->time;
        for (int64_t c = 0; c < m->width; c++) r->x[row * m->width + c] = embedded[c] * (float)m->embed_scale;
        for (int64_t i = 0; i < m->rotated / 2; i++) {
            r->turns[row * m->rotated + i] = cosf(position * m->frequency[i]);
            r->turns[row * m->rotated + m->rotated / 2 + i] = sinf(position * m->frequency[i]);
        }
    }
    for (const Layer *l = layers; l < layers + m->num_layers; l++, states++) {
        BARRIER
        norm_rows(r, r->normed, l->mixer_norm);
        BARRIER
        if (l->is_mamba) mamba(r, l, states); else attention(r, l, states);
        if (l->mlp_norm == NULL) continue;
        BARRIER
        norm_rows(r, r->normed, l->mlp_norm);
        BARRIER
        mlp(r, l);
    }
    BARRIER
    norm_rows(r, r->x, m->norm);
}

#endif
