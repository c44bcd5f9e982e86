/* Vectors of the machine's own width: dot products of many rows, exp, SiLU, RMSNorm, softmax by blocks.

   Every sum is taken in an order that depends on its own length alone, so that a row has the same numbers in any
   batch, in any cutting and on any number of threads. GCC and Clang. */
#ifndef NATIVE_MATH_H
#define NATIVE_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define WIDTH 16
#define TILE_N 4 /* rows of the matrix held at once, against 4 rows of x: 16 sums in registers */
#elif defined(__AVX__)
#define WIDTH 8
#define TILE_N 2
#else
#define WIDTH 4
#define TILE_N 2
#endif

#define BLOCK 64 /* positions that attention looks at together */

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH)));
typedef float loose __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias)); /* at any address */

#ifndef __has_builtin
#define __has_builtin(x) 0
#endif

INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }

INLINE vec choose(ivec where, vec one, vec other) { return (vec)((where & (ivec)one) | (~where & (ivec)other)); }

/* n < WIDTH numbers, zeros behind */
INLINE vec load_part(const float *p, int64_t n) {
    float part[WIDTH] = {0};
    memcpy(part, p, n * sizeof(float));
    return load(part);
}

INLINE void store_part(float *p, vec v, int64_t n) {
    float part[WIDTH];
    store(part, v);
    memcpy(p, part, n * sizeof(float));
}

typedef float quad __attribute__((vector_size(16)));

INLINE quad fold(vec v) {
    union { vec v; quad q[WIDTH / 4]; } u = {v};
#if WIDTH == 16
    return (u.q[0] + u.q[2]) + (u.q[1] + u.q[3]);
#elif WIDTH == 8
    return u.q[0] + u.q[1];
#else
    return u.q[0];
#endif
}

INLINE float sum(vec v) {
    quad s = fold(v);
    return (s[0] + s[2]) + (s[1] + s[3]);
}

/* four sums at once, in the order of `sum` */
INLINE void sum_four(const vec *v, float *sums) {
#if __has_builtin(__builtin_shufflevector)
    quad a = fold(v[0]), b = fold(v[1]), c = fold(v[2]), d = fold(v[3]);
    quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    quad cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    quad all = __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    memcpy(sums, &all, sizeof(all));
#else
    for (int i = 0; i < 4; i++) sums[i] = sum(v[i]);
#endif
}

/* e^x to 2 units in the last place (Cephes, Moshier 1989); x is cut to [-87, 88]; NaN stays NaN */
INLINE vec vexp(vec x) {
    const float magic = 12582912.f; /* adding it rounds to an integer, which then stands in the low bits */
    x = choose(x < splat(-87.f), splat(-87.f), x);
    x = choose(x > splat(88.f), splat(88.f), x);
    vec shifted = x * 1.44269504088896341f + magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
    ivec power = ((ivec)shifted - 0x4B400000 + 127) << 23;
    return p * (vec)power;
}

INLINE vec vsilu(vec x) { return x / (1.f + vexp(-x)); }

/* y = silu(gate) * x; x may be NULL for 1, y may be either of them */
static void silu_times(float *y, const float *gate, const float *x, int64_t n) {
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) store(y + i, x ? vsilu(load(gate + i)) * load(x + i) : vsilu(load(gate + i)));
    if (i < n) {
        vec v = vsilu(load_part(gate + i, n - i));
        store_part(y + i, x ? v * load_part(x + i, n - i) : v, n - i);
    }
}

/* y = x / rms(x) * weight; y may be x */
static void rms_norm(float *y, const float *x, const float *weight, int64_t n, float eps) {
    vec squares = {0};
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) squares += load(x + i) * load(x + i);
    if (i < n) {
        vec last = load_part(x + i, n - i);
        squares += last * last;
    }
    float scale = 1.f / sqrtf(sum(squares) / n + eps);
    for (i = 0; i + WIDTH <= n; i += WIDTH) store(y + i, load(x + i) * scale * load(weight + i));
    for (; i < n; i++) y[i] = x[i] * scale * weight[i];
}

/* sums[m][j] = x[m] . w[j] over k numbers, for mr rows of x and nr of w (both known to the compiler).
   The first to read rows of w fetches as many behind them: alone, a processor would stop at the end of each row. */
INLINE void tile(int mr, int nr, int fetches, const float *x, int64_t ldx, const float *w, int64_t ldw, int64_t k,
                 float sums[4][4]) {
    vec acc[4][4];
    for (int m = 0; m < mr; m++)
        for (int j = 0; j < nr; j++) acc[m][j] = (vec){0};
    int64_t i = 0;
    for (; i + WIDTH <= k; i += WIDTH) {
        vec rows[4];
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++) {
            if (fetches) __builtin_prefetch(w + (j + nr) * ldw + i);
            rows[j] = load(w + j * ldw + i);
        }
#pragma GCC unroll 4
        for (int m = 0; m < mr; m++) {
            vec column = load(x + m * ldx + i);
#pragma GCC unroll 4
            for (int j = 0; j < nr; j++) acc[m][j] += column * rows[j];
        }
    }
    if (i < k)
        for (int m = 0; m < mr; m++)
            for (int j = 0; j < nr; j++)
                acc[m][j] += load_part(x + m * ldx + i, k - i) * load_part(w + j * ldw + i, k - i);
#pragma GCC unroll 4
    for (int m = 0; m < mr; m++) {
        if (nr == 4) sum_four(acc[m], sums[m]);
        else
            for (int j = 0; j < nr; j++) sums[m][j] = sum(acc[m][j]);
    }
}

typedef struct {
    float *y; /* y[m * ldy + j] (+)= scale * (x[m] . w[j] + bias[j]) */
    int64_t ldy;
    const float *bias; /* NULL for none */
    float scale;
    int adds; /* to what y holds */
} Result;

INLINE void finish(int mr, int nr, int64_t m0, int64_t j0, float sums[4][4], const Result *to) {
    for (int m = 0; m < mr; m++)
        for (int j = 0; j < nr; j++) {
            float *y = to->y + (m0 + m) * to->ldy + j0 + j;
            float value = to->scale * (to->bias ? sums[m][j] + to->bias[j0 + j] : sums[m][j]);
            *y = to->adds ? *y + value : value;
        }
}

#define AT(MR, NR, FETCHES)                                                  \
    do {                                                                     \
        tile(MR, NR, FETCHES, x + m * ldx, ldx, w + j * ldw, ldw, k, sums);  \
        finish(MR, NR, m, j, sums, to);                                      \
    } while (0)

/* Rows j0 to j1 of w (.., k) against all rows of x: every row of w is read from memory once. */
static __attribute__((noinline)) void product(const float *x, int64_t ldx, int64_t rows, const float *w, int64_t ldw,
                                              int64_t k, int64_t j0, int64_t j1, const Result *to) {
    float sums[4][4];
    int64_t j = j0, m = 0;
    if (rows == 1)
        for (; j + 4 <= j1; j += 4) AT(1, 4, 1);
    for (; j + TILE_N <= j1; j += TILE_N) {
        m = 0;
        if (rows >= 4) {
            AT(4, TILE_N, 1);
            for (m = 4; m + 4 <= rows; m += 4) AT(4, TILE_N, 0);
        }
        if (rows - m == 3) AT(3, TILE_N, 1);
        if (rows - m == 2) AT(2, TILE_N, 1);
        if (rows - m == 1) AT(1, TILE_N, 1);
    }
    for (; j < j1; j++)
        for (m = 0; m < rows; m++) AT(1, 1, 0);
}

/* Rotary positions of one head of one token, halves paired; turns: cosines, then sines. */
static void rotate(float *head, const float *turns, int64_t rotated) {
    const int64_t half = rotated / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = head[i], b = head[half + i], cosine = turns[i], sine = turns[half + i];
        head[i] = a * cosine - b * sine;
        head[half + i] = b * cosine + a * sine;
    }
}

/* One query head's softmax over a block of positions joins what it has seen: largest score, sum of weights, output. */
static void look(const float *scores, int64_t num, const float *values, int64_t d, float *largest, float *total,
                 float *y) {
    float weights[BLOCK], top = *largest;
    for (int64_t i = 0; i < num; i++) top = scores[i] > top ? scores[i] : top;
    const float kept = expf(*largest - top);
    int64_t i = 0, c = 0;
    for (; i + WIDTH <= num; i += WIDTH) store(weights + i, vexp(load(scores + i) - top));
    if (i < num) store_part(weights + i, vexp(load_part(scores + i, num - i) - top), num - i);
    float added = 0.f;
    for (i = 0; i < num; i++) added += weights[i];
    *total = *total * kept + added;
    *largest = top;
    for (; c + 2 * WIDTH <= d; c += 2 * WIDTH) {
        vec even[2] = {load(y + c) * kept, load(y + c + WIDTH) * kept}, odd[2] = {{0}, {0}};
        for (i = 0; i + 2 <= num; i += 2) {
            const float *v = values + i * d + c;
            even[0] += weights[i] * load(v);
            even[1] += weights[i] * load(v + WIDTH);
            odd[0] += weights[i + 1] * load(v + d);
            odd[1] += weights[i + 1] * load(v + d + WIDTH);
        }
        if (i < num) {
            even[0] += weights[i] * load(values + i * d + c);
            even[1] += weights[i] * load(values + i * d + c + WIDTH);
        }
        store(y + c, even[0] + odd[0]);
        store(y + c + WIDTH, even[1] + odd[1]);
    }
    for (; c + WIDTH <= d; c += WIDTH) {
        vec value = load(y + c) * kept;
        for (i = 0; i < num; i++) value += weights[i] * load(values + i * d + c);
        store(y + c, value);
    }
    for (; c < d; c++) {
        float value = y[c] * kept;
        for (i = 0; i < num; i++) value += weights[i] * values[i * d + c];
        y[c] = value;
    }
}

#endif
