// The operations of ops.h, built once for each instruction set.
#include "cpu/ops/isa/math.h"
#include "cpu/ops/ops.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {

extern const OpsKernels kOps;

namespace {

// Sum of f(x[i]) over n elements: 64 running sums by i % 64, then pairwise. f(0) must be 0 or masked by the caller.
template <class F>
inline float sum_of(const float* x, int64_t n, F f) {
  Vec s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    s0 = f(load(x + i), s0);
    s1 = f(load(x + i + 16), s1);
    s2 = f(load(x + i + 32), s2);
    s3 = f(load(x + i + 48), s3);
  }
  Vec* const tail[4] = {&s0, &s1, &s2, &s3};
  for (int part = 0; i < n; i += 16, ++part) {
    const Vec next = f(load_n(x + i, n - i), *tail[part]);
    *tail[part] = select(first_lanes(n - i), next, *tail[part]);
  }
  return sum(add(add(s0, s1), add(s2, s3)));
}

template <class F>
inline void each(float* y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, f(i, load(y + i), int64_t{16}));
  if (i < n) store_n(y + i, f(i, load_n(y + i, n - i), n - i), n - i);
}

// load, or load_n for the last elements.
inline Vec load_upto(const float* p, int64_t n) { return n >= 16 ? load(p) : load_n(p, n); }

inline float square_root(float x) {
  float r = __builtin_sqrtf(x);
  return r;
}

void norm(const Norm& norm, const float* x, const float* weight, const float* bias, int64_t n, float* y) {
  const float count = static_cast<float>(n);
  float mean = 0.0f;
  if (norm.kind == NormKind::layer) mean = sum_of(x, n, [](Vec v, Vec s) { return add(s, v); }) / count;
  const Vec shift = set1(mean);
  const float squares = sum_of(x, n, [shift](Vec v, Vec s) {
    const Vec d = sub(v, shift);
    return fma(d, d, s);
  });
  const Vec inverse = set1(1.0f / square_root(squares / count + norm.eps));
  const Vec offset = set1(norm.weight_offset);
  int64_t i = 0;
  for (; i < n; i += 16) {
    const int64_t left = n - i;
    Vec v = mul(sub(load_upto(x + i, left), shift), inverse);
    v = mul(v, add(load_upto(weight + i, left), offset));
    if (bias) v = add(v, load_upto(bias + i, left));
    if (left >= 16) {
      store(y + i, v);
    } else {
      store_n(y + i, v, left);
    }
  }
}

inline void rotate(float* a, float* b, const float* cos, const float* sin, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t left = n - i;
    const Vec x = load_upto(a + i, left), z = load_upto(b + i, left);
    const Vec c = load_upto(cos + i, left), s = load_upto(sin + i, left);
    const Vec first = sub(mul(x, c), mul(z, s)), second = add(mul(z, c), mul(x, s));
    if (left >= 16) {
      store(a + i, first);
      store(b + i, second);
    } else {
      store_n(a + i, first, left);
      store_n(b + i, second, left);
    }
  }
}

void rope(float* x, int32_t heads, int32_t head_dim, const float* cos, const float* sin, int32_t half,
          bool interleaved) {
  for (int32_t h = 0; h < heads; ++h) {
    float* head = x + static_cast<int64_t>(h) * head_dim;
    if (!interleaved) {
      rotate(head, head + half, cos, sin, half);
      continue;
    }
    float first[16], second[16];  // the pairs apart, rotated, and back
    for (int32_t i = 0; i < half; i += 16) {
      const int32_t count = half - i < 16 ? half - i : 16;
      float* pairs = head + 2 * static_cast<int64_t>(i);
      for (int32_t j = 0; j < count; ++j) {
        first[j] = pairs[2 * j];
        second[j] = pairs[2 * j + 1];
      }
      rotate(first, second, cos + i, sin + i, count);
      for (int32_t j = 0; j < count; ++j) {
        pairs[2 * j] = first[j];
        pairs[2 * j + 1] = second[j];
      }
    }
  }
}

template <class F>
inline void gate_with(float* gate, const float* up, int64_t n, F f) {
  if (up) {
    each(gate, n, [up, f](int64_t i, Vec g, int64_t left) { return mul(f(g), load_upto(up + i, left)); });
  } else {
    each(gate, n, [f](int64_t, Vec g, int64_t) { return f(g); });
  }
}

inline Vec sigmoid_times(Vec x, Vec u) { return div(x, add(set1(1.0f), exp(sub(zero(), u)))); }

void activate(Activation act, float* gate, const float* up, int64_t n) {
  switch (act) {
    case Activation::silu: return gate_with(gate, up, n, [](Vec x) { return sigmoid_times(x, x); });
    case Activation::gelu: return gate_with(gate, up, n, [](Vec x) { return mul(x, normal_cdf(x)); });
    case Activation::gelu_tanh:  // x (1 + tanh u) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
      return gate_with(gate, up, n, [](Vec x) {
        const Vec cube = mul(mul(x, x), x);
        return sigmoid_times(x, mul(fma(cube, set1(0.044715f), x), set1(1.5957691f)));
      });
    case Activation::relu:  // max keeps its second operand where that is NaN
      return gate_with(gate, up, n, [](Vec x) { return max(zero(), x); });
  }
}

void axpy(float a, const float* x, float* y, int64_t n) {
  const Vec factor = set1(a);
  each(y, n, [x, factor](int64_t i, Vec v, int64_t left) { return fma(factor, load_upto(x + i, left), v); });
}

void scale(float a, float* y, int64_t n) {
  const Vec factor = set1(a);
  each(y, n, [factor](int64_t, Vec v, int64_t) { return mul(factor, v); });
}

void softcap(float cap, float* y, int64_t n) {
  const Vec c = set1(cap);
  each(y, n, [c](int64_t, Vec v, int64_t) { return mul(c, tanh(div(v, c))); });
}

// The largest of each stretch of elements first; the index is looked for in the first stretch that has it.
int64_t argmax(const float* x, int64_t n) {
  constexpr int64_t kStretch = 2048;
  float best = 0.0f;
  int64_t where = -1;
  Vec finite = zero();  // x * 0 is NaN where x is NaN or infinite
  for (int64_t begin = 0; begin < n; begin += kStretch) {
    const int64_t end = begin + kStretch < n ? begin + kStretch : n;
    Vec m0 = set1(x[begin]), m1 = m0, bad0 = finite, bad1 = zero();
    int64_t i = begin;
    for (; i + 32 <= end; i += 32) {
      const Vec a = load(x + i), b = load(x + i + 16);
      m0 = max(m0, a);
      m1 = max(m1, b);
      bad0 = fma(a, zero(), bad0);
      bad1 = fma(b, zero(), bad1);
    }
    for (; i < end; i += 16) {
      const Vec a = load_upto(x + i, end - i);
      m0 = max(m0, select(first_lanes(end - i), a, m0));
      bad0 = fma(a, zero(), bad0);
    }
    finite = add(bad0, bad1);
    const float top = largest(max(m0, m1));
    if (where < 0 || top > best) {
      best = top;
      where = begin;
    }
  }
  if (where < 0 || !(sum(finite) == 0.0f)) return -1;
  const Vec target = set1(best);
  for (int64_t i = where; i < n; i += 16) {
    const Mask16 hit = static_cast<Mask16>(equal(load_upto(x + i, n - i), target) & first_lanes(n - i));
    if (hit) return i + __builtin_ctz(static_cast<unsigned>(hit));
  }
  return -1;
}

}  // namespace

const OpsKernels kOps = {norm, rope, activate, axpy, scale, softcap, argmax};

}  // namespace deploykit::cpu::DEPLOYKIT_ISA
