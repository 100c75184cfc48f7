// The same bits whatever the batch, the range of rows and tiles, and the instruction set.
#include "check.h"
#include "products.h"

using namespace products;

#if defined(__x86_64__)
namespace deploykit::cpu::avx512 {
extern const MatmulKernels kMatmulKernels;  // the table that is taken where the CPU has no AVX512-BF16
}
#endif

namespace {

std::vector<stored::Case> all_cases() {
  std::vector<stored::Case> all = stored::quantized_cases();
  for (const stored::Case& c : stored::dense_cases()) all.push_back(c);
  return all;
}

}  // namespace

TEST(a_row_does_not_depend_on_the_batch_or_the_tiles) {
  constexpr int64_t kBatch = 29;
  for (Isa isa : available_isas()) {
    for (const stored::Case& c : all_cases()) {
      for (DType dtype : {DType::bf16, DType::f32}) {
        const int64_t cols = c.multiple == 1 ? 45 : c.multiple * (c.multiple > 64 ? 1 : 3);
        const Packed packed(stored::make(c, 72, cols, 17), dtype, isa);
        Inputs in(kBatch, cols, 23);
        prepare(in, packed.m.act, isa);
        const int64_t ldo = 5 * 16 + 16;
        const std::vector<float> whole = multiply(packed.m, in, 0, kBatch, 0, 5, isa);
        int wrong = 0;
        for (int64_t m0 = 0; m0 < kBatch; m0 += 3) {
          for (int64_t count : {1, 2, 3, 4, 5, 6, 8, 9, 11, 16}) {
            if (m0 + count > kBatch || (count > 3 && m0 % 2 != 0)) continue;
            for (int64_t t0 : {0, 1, 4}) {
              const int64_t t1 = t0 == 1 ? 4 : t0 + 1, width = (t1 - t0) * 16;
              const std::vector<float> part = multiply(packed.m, in, m0, m0 + count, t0, t1, isa);
              for (int64_t r = 0; r < count; ++r) {
                const float* expected = &whole[static_cast<size_t>((m0 + r) * ldo + t0 * 16)];
                wrong += !same_bits(&part[static_cast<size_t>(r * (width + 16))], expected, width);
              }
            }
          }
        }
        if (wrong != 0) {
          check::fail(__FILE__, __LINE__, std::string(c.name) + " on " + isa_name(isa) + ": " + std::to_string(wrong) +
                                              " rows with other bits");
        }
      }
    }
  }
}

TEST(instruction_sets_agree_to_the_bit) {
  for (Isa isa : available_isas()) {
    for (const stored::Case& c : all_cases()) {
      for (DType dtype : {DType::bf16, DType::f32}) {
        const int64_t cols = c.multiple == 1 ? 51 : c.multiple * (c.multiple > 64 ? 2 : 5);
        const stored::Matrix source = stored::make(c, 56, cols, 31);
        const Packed packed(source, dtype, isa), scalar(source, dtype, Isa::scalar);
        CHECK_EQ(packed.m.tile_bytes, scalar.m.tile_bytes);
        Inputs in(13, cols, 37), reference(13, cols, 37);
        prepare(in, packed.m.act, isa);
        prepare(reference, scalar.m.act, Isa::scalar);
        const std::vector<float> y = multiply(packed.m, in, 0, 13, 0, 4, isa);
        const std::vector<float> expected = multiply(scalar.m, reference, 0, 13, 0, 4, Isa::scalar);
        if (!same_bits(y.data(), expected.data(), 12 * 80 + 64)) {
          check::fail(__FILE__, __LINE__, std::string(c.name) + ": " + isa_name(isa) + " and scalar differ");
        }
      }
    }
  }
}

#if defined(__x86_64__)
TEST(avx512_without_bf16_instructions_gives_the_same_bits) {
  if (!has_avx512_bf16()) return;  // then it is what the other tests ran
  const Isa isa = Isa::avx512;
  const stored::Case& c = stored::dense_cases()[2];
  for (int64_t cols : {1, 33, 96}) {
    const Packed packed(stored::make(c, 40, cols, 43), DType::bf16, isa);
    Inputs in(14, cols, 47);
    prepare(in, ActKind::bf16, isa);
    const std::vector<float> expected = multiply(packed.m, in, 0, 14, 0, 3, isa);
    std::vector<float> y(14 * 48);
    Memory scratch(matmul_scratch_bytes(cols));
    avx512::kMatmulKernels.multiply(packed.m, in.a, 0, 14, 0, 3, y.data(), 48, scratch.data());
    for (size_t row = 0; row < 14; ++row) CHECK(same_bits(&y[row * 48], &expected[row * 64], 48));
  }
}
#endif

TEST(panels_and_many_blocks_agree_with_single_rows) {
  // Large enough for several panels of tiles.
  const stored::Case c = {deploykit::WeightFormat::q4_1, "q4_1", 32, 0, 0};
  const Isa isa = available_isas().front();
  const Packed packed(stored::make(c, 1200, 1024, 3), DType::bf16, isa);
  Inputs in(27, 1024, 5);
  prepare(in, ActKind::int8, isa);
  const int64_t tiles = packed.m.tiles(), ldo = tiles * 16 + 16;
  const std::vector<float> whole = multiply(packed.m, in, 0, 27, 0, tiles, isa);
  for (int64_t row = 0; row < 27; ++row) {
    const std::vector<float> one = multiply(packed.m, in, row, row + 1, 0, tiles, isa);
    CHECK(same_bits(one.data(), &whole[static_cast<size_t>(row * ldo)], tiles * 16));
  }
}

TEST(activations_are_the_same_on_every_instruction_set) {
  Inputs reference(5, 96, 41);
  reference.a.f32[3] = 1e-38f;
  for (int64_t k = 32; k < 64; ++k) reference.a.f32[k] = 0.0f;
  for (int64_t k = 64; k < 96; ++k) reference.a.f32[k] = 1e-32f * static_cast<float>(k);
  for (int64_t k = 96; k < 128; ++k) reference.a.f32[k] = 0.5f * static_cast<float>(k - 112) * 0x1p100f;
  prepare(reference, ActKind::int8, Isa::scalar);
  prepare(reference, ActKind::bf16, Isa::scalar);
  for (Isa isa : available_isas()) {
    Inputs in(5, 96, 0);
    std::memcpy(in.a.f32, reference.a.f32, 5 * 96 * 4);
    // In two parts, as two threads would.
    for (ActKind kind : {ActKind::int8, ActKind::bf16}) {
      matmul_kernels(isa).prepare(in.a, kind, 0, 5, 0, 32);
      matmul_kernels(isa).prepare(in.a, kind, 0, 5, 32, 96);
    }
    CHECK(std::memcmp(in.a.q, reference.a.q, 5 * 96) == 0);
    CHECK(std::memcmp(in.a.bf16, reference.a.bf16, 5 * 96 * 2) == 0);
    CHECK(same_bits(in.a.scale, reference.a.scale, 15));
    CHECK(same_bits(in.a.sum, reference.a.sum, 15));
    CHECK(std::memcmp(in.a.neg, reference.a.neg, 15 * 4) == 0);
    CHECK(std::memcmp(in.a.neg16, reference.a.neg16, 30 * 4) == 0);
    for (int64_t i = 0; i < 5 * 96; ++i) {
      const float scale = in.a.scale[i / 32];
      CHECK_NEAR(in.a.q[i] * static_cast<double>(scale), in.a.f32[i], 0.5001 * scale + 1e-29);
    }
  }
}

TEST(what_is_not_finite_stays_so) {
  const stored::Case c = {deploykit::WeightFormat::q8_0, "q8_0", 32, 0, 0};
  for (Isa isa : available_isas()) {
    const Packed packed(stored::make(c, 16, 64, 3), DType::bf16, isa);
    for (float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
      Inputs in(2, 64, 5);
      in.a.f32[64 + 40] = bad;
      prepare(in, ActKind::int8, isa);
      const std::vector<float> y = multiply(packed.m, in, 0, 2, 0, 1, isa);
      for (int64_t n = 0; n < 16; ++n) {
        CHECK(std::isfinite(y[static_cast<size_t>(n)]));
        CHECK(!std::isfinite(y[static_cast<size_t>(32 + n)]));
      }
    }
  }
}

CHECK_MAIN
