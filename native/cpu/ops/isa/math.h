// exp, tanh and the normal distribution function on sixteen float32 lanes. Polynomials are least-squares fits made
// near-minimax by reweighting; the stated errors are the fits' own, before float32 rounding.
#pragma once

#include "cpu/ops/isa/vec.h"

namespace deploykit::cpu::DEPLOYKIT_ISA {
namespace {

// Adding it rounds a float of magnitude below 2^22 to a whole number, which then stands in the low bits.
inline constexpr float kRound = 12582912.0f;  // 1.5 * 2^23

// e^x within 2 ulp, subnormal results and overflow to infinity included; NaN stays NaN.
inline Vec exp(Vec x) {
  x = max(set1(-104.0f), min(set1(89.0f), x));  // the second operand is kept where it is NaN
  const Vec n = sub(fma(x, set1(1.44269504f), set1(kRound)), set1(kRound));
  Vec r = fnma(n, set1(0.693359375f), x);
  r = fnma(n, set1(-2.12194440e-4f), r);
  Vec p = set1(1.381430282e-3f);  // (e^r - 1 - r) / r^2, 3.1e-9
  p = fma(p, r, set1(8.368852744e-3f));
  p = fma(p, r, set1(4.166840146e-2f));
  p = fma(p, r, set1(1.666651951e-1f));
  p = fma(p, r, set1(4.999999337e-1f));
  p = add(fma(mul(r, r), p, r), set1(1.0f));
  // 2^n in two factors: n itself may be below the smallest normal exponent or 128.
  const Vec half = fma(n, set1(0.5f), set1(kRound));
  const Vec rest = add(sub(n, sub(half, set1(kRound))), set1(kRound));
  return mul(mul(p, exponent_of_magic(half)), exponent_of_magic(rest));
}

// 2^x for x <= 0 as a softmax needs it: 2^-126 below -126, relative error 2e-9 before rounding.
inline Vec exp2_softmax(Vec x) {
  x = max(set1(-126.0f), x);
  const Vec magic = add(x, set1(kRound));
  const Vec f = sub(x, sub(magic, set1(kRound)));
  Vec p = set1(1.534578454e-4f);
  p = fma(p, f, set1(1.339993100e-3f));
  p = fma(p, f, set1(9.618489059e-3f));
  p = fma(p, f, set1(5.550328778e-2f));
  p = fma(p, f, set1(2.402264689e-1f));
  p = fma(p, f, set1(6.931472057e-1f));
  p = fma(p, f, set1(1.0f));
  return mul(p, exponent_of_magic(magic));
}

// tanh x = x + x^3 P(x^2) near zero, 1 - 2 / (e^2x + 1) elsewhere.
inline Vec tanh(Vec x) {
  const Vec y = mul(x, x);
  Vec p = set1(-5.528581164e-3f);  // 6.4e-9 of x on |x| < 0.65
  p = fma(p, y, set1(2.048326061e-2f));
  p = fma(p, y, set1(-5.369294760e-2f));
  p = fma(p, y, set1(1.333089946e-1f));
  p = fma(p, y, set1(-3.333326287e-1f));
  const Vec small = fma(mul(x, y), p, x);
  const Vec large = sub(set1(1.0f), div(set1(2.0f), add(exp(add(x, x)), set1(1.0f))));
  return select(less(abs(x), set1(0.625f)), small, large);
}

// Phi(x) = erfc(-x / sqrt 2) / 2. erfc(z) = e^(-z^2) t P(t) with t = 1 / (1 + 0.4 z) for z >= 0, 9e-9.
inline Vec normal_cdf(Vec x) {
  const Vec z = mul(abs(x), set1(0.70710678f));
  const Vec t = div(set1(1.0f), fma(z, set1(0.4f), set1(1.0f)));
  Vec p = set1(-2.863891277e-2f);
  p = fma(p, t, set1(1.928327253e-1f));
  p = fma(p, t, set1(-4.866527803e-1f));
  p = fma(p, t, set1(5.312572596e-1f));
  p = fma(p, t, set1(-2.709470229e-1f));
  p = fma(p, t, set1(2.648857583e-1f));
  p = fma(p, t, set1(1.321526221e-1f));
  p = fma(p, t, set1(2.143914895e-1f));
  p = fma(p, t, set1(2.250151909e-1f));
  p = fma(p, t, set1(2.257036792e-1f));
  const Vec tail = mul(mul(mul(p, t), set1(0.5f)), exp(mul(mul(x, x), set1(-0.5f))));
  return select(less(x, zero()), tail, sub(set1(1.0f), tail));
}

}  // namespace
}  // namespace deploykit::cpu::DEPLOYKIT_ISA
