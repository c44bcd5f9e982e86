/* One row times a matrix, y = W x + b, for decoding: reads W once, at the speed of memory. */
#include <stddef.h>

#if defined(__AVX512F__)
#include <immintrin.h>
static float dot(const float *w, const float *x, ptrdiff_t k) {
    __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
    ptrdiff_t i = 0;
    for (; i + 64 <= k; i += 64) {
        /* rows follow each other, so reading ahead of a row's end is reading the next row */
        for (int line = 0; line < 64; line += 16) _mm_prefetch((const char *)(w + i + 1024 + line), _MM_HINT_T0);
        a = _mm512_fmadd_ps(_mm512_loadu_ps(w + i), _mm512_loadu_ps(x + i), a);
        b = _mm512_fmadd_ps(_mm512_loadu_ps(w + i + 16), _mm512_loadu_ps(x + i + 16), b);
        c = _mm512_fmadd_ps(_mm512_loadu_ps(w + i + 32), _mm512_loadu_ps(x + i + 32), c);
        d = _mm512_fmadd_ps(_mm512_loadu_ps(w + i + 48), _mm512_loadu_ps(x + i + 48), d);
    }
    float sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
    for (; i < k; i++) sum += w[i] * x[i];
    return sum;
}
#else
static float dot(const float *w, const float *x, ptrdiff_t k) {
    float lanes[32] = {0};
    ptrdiff_t i = 0;
    for (; i + 32 <= k; i += 32) {
        __builtin_prefetch(w + i + 1024);
        __builtin_prefetch(w + i + 1040);
        for (int lane = 0; lane < 32; lane++) lanes[lane] += w[i + lane] * x[i + lane];
    }
    float sum = 0;
    for (int lane = 0; lane < 32; lane++) sum += lanes[lane];
    for (; i < k; i++) sum += w[i] * x[i];
    return sum;
}
#endif

/* w (n, k), x (k), bias (n) or NULL, y (n) */
void one_row(const float *w, const float *x, const float *bias, float *y, ptrdiff_t n, ptrdiff_t k, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && n * k > 65536)
    for (ptrdiff_t row = 0; row < n; row++) y[row] = dot(w + row * k, x, k) + (bias ? bias[row] : 0.0f);
}
