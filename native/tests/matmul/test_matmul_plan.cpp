// Layouts, sizes and refusals.
#include <functional>

#include "check.h"
#include "deploykit/error.h"
#include "products.h"

using namespace products;
using deploykit::Error;
using deploykit::WeightFormat;
using deploykit::WeightSpec;

namespace {

// Throws Error(code) whose text has all of `words`.
void refuses(const char* code, const std::vector<std::string>& words, const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    CHECK_EQ(error.code(), std::string(code));
    for (const std::string& word : words) {
      if (std::string(error.what()).find(word) == std::string::npos) {
        check::fail(__FILE__, __LINE__, "no '" + word + "' in: " + error.what());
      }
    }
    return;
  }
  check::fail(__FILE__, __LINE__, std::string("not refused: ") + code + " " + words.front());
}

}  // namespace

TEST(dtype_decides_the_activations) {
  const auto act = [](WeightFormat format, DType dtype) {
    return plan_matrix({"w", format, 64, 256, 128}, dtype, Isa::scalar).act;
  };
  for (const auto& c : stored::quantized_cases()) {
    if (c.group != 0 && 256 % c.group != 0) continue;
    CHECK(act(c.format, DType::f32) == ActKind::f32);
    CHECK(act(c.format, DType::bf16) == ActKind::int8);
    CHECK(act(c.format, DType::f16) == ActKind::int8);
  }
  CHECK(act(WeightFormat::f32, DType::bf16) == ActKind::f32);
  CHECK(act(WeightFormat::bf16, DType::bf16) == ActKind::bf16);
  CHECK(act(WeightFormat::bf16, DType::f32) == ActKind::f32);
  CHECK(act(WeightFormat::bf16, DType::f16) == ActKind::f32);  // bfloat16 would cost a float16 activation three bits
  CHECK(act(WeightFormat::f16, DType::f16) == ActKind::f32);
}

TEST(sizes_beyond_32_bits) {
  const WeightSpec quantized{"huge", WeightFormat::q4_1, int64_t{1} << 22, 16384, 0};
  const WeightSpec dense{"huge", WeightFormat::f32, int64_t{1} << 20, 1 << 14, 0};
  const PackedMatrix m = plan_matrix(quantized, DType::bf16, Isa::scalar);
  CHECK_EQ(m.tile_bytes, 16384 * 16 / 2 + 512 * 64);
  CHECK_EQ(packed_bytes(m), m.tile_bytes << 18);
  const PackedMatrix f = plan_matrix(dense, DType::f32, Isa::scalar);
  CHECK_EQ(packed_bytes(f), int64_t{1} << 36);
  CHECK(activation_bytes(int64_t{1} << 20, int64_t{1} << 14) > int64_t{1} << 36);
}

TEST(offsets_beyond_32_bits_reach_the_right_tile_and_row) {
  // One real tile, far from a base that is never read; outputs far from theirs.
  const stored::Case c = {WeightFormat::q4_0, "q4_0", 32, 0, 0};
  for (Isa isa : available_isas()) {
    const Packed packed(stored::make(c, 16, 64, 3), DType::bf16, isa);
    Inputs in(1, 64, 5);
    prepare(in, ActKind::int8, isa);
    const std::vector<float> expected = multiply(packed.m, in, 0, 1, 0, 1, isa);
    constexpr int64_t kTile = int64_t{1} << 33, kRow = int64_t{1} << 34;
    PackedMatrix far = packed.m;
    far.rows = (kTile + 1) * 16;
    far.data = reinterpret_cast<uint8_t*>(reinterpret_cast<uintptr_t>(packed.m.data) -
                                          static_cast<uintptr_t>(kTile * packed.m.tile_bytes));
    Activations a = in.a;
    a.rows = kRow + 1;
    const auto back = [](auto* p, int64_t count) {
      using T = std::remove_pointer_t<decltype(p)>;
      return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) - static_cast<uintptr_t>(count) * sizeof(T));
    };
    a.q = back(a.q, kRow * 64);
    a.scale = back(a.scale, kRow * 2);
    a.sum = back(a.sum, kRow * 2);
    a.neg = back(a.neg, kRow * 2);
    a.neg16 = back(a.neg16, kRow * 4);
    std::vector<float> out(16);
    Memory scratch(matmul_scratch_bytes(64));
    matmul_kernels(isa).multiply(far, a, kRow, kRow + 1, kTile, kTile + 1, out.data(), 16, scratch.data());
    CHECK(same_bits(out.data(), expected.data(), 16));
  }
}

TEST(shapes_that_a_format_cannot_have_are_refused_by_name) {
  refuses("invalid", {"layers.7.up.weight", "100", "32"},
          [] { plan_matrix({"layers.7.up.weight", WeightFormat::q4_1, 64, 100, 0}, DType::bf16, Isa::scalar); });
  refuses("invalid", {"w", "288", "256"},
          [] { plan_matrix({"w", WeightFormat::q6_k, 64, 288, 0}, DType::f32, Isa::scalar); });
  refuses("unsupported", {"w", "16"},
          [] { plan_matrix({"w", WeightFormat::gptq, 64, 64, 16}, DType::f32, Isa::scalar); });
  refuses("invalid", {"w", "format 99"},
          [] { plan_matrix({"w", static_cast<WeightFormat>(99), 64, 64, 16}, DType::f32, Isa::scalar); });
  refuses("invalid", {"w", "[0, 64]"},
          [] { plan_matrix({"w", WeightFormat::f32, 0, 64, 0}, DType::f32, Isa::scalar); });
}

TEST(damaged_tensors_are_refused_by_name) {
  for (const stored::Case& c : stored::quantized_cases()) {
    const stored::Matrix source = stored::make(c, 16, c.multiple, 3);
    Packed packed(source, DType::bf16, Isa::scalar);
    stored::Matrix bad = source;
    bad.data.pop_back();
    refuses("invalid", {bad.spec.name, std::to_string(source.data.size()), std::to_string(bad.data.size())},
            [&] { pack_matrix(packed.m, bad.tensor()); });
    bad = source;
    if (!bad.scales.empty()) {
      bad.scales.push_back(0);
      refuses("invalid", {bad.spec.name, "scales"}, [&] { pack_matrix(packed.m, bad.tensor()); });
      bad = source;
      const size_t width = c.format == WeightFormat::int8 ? 4 : 2;
      std::memset(&bad.scales[bad.scales.size() - width], 0xff, width);
    } else {
      const int64_t back = c.format == WeightFormat::q6_k ? 2 : stored::block_bytes(c.format);
      std::memset(&bad.data[bad.data.size() - static_cast<size_t>(back)], 0xff, 2);
    }
    refuses("invalid", {bad.spec.name, "row 15", "not finite"}, [&] { pack_matrix(packed.m, bad.tensor()); });
    bad = source;
    bad.spec.rows = 8;
    refuses("invalid", {bad.spec.name, "planned"}, [&] { pack_matrix(packed.m, bad.tensor()); });
  }
}

TEST(only_built_instruction_sets_have_kernels) {
  for (Isa isa : available_isas()) CHECK(matmul_kernels(isa).multiply != nullptr);
#if defined(__x86_64__)
  CHECK_THROWS(matmul_kernels(Isa::neon), "unsupported");
#else
  CHECK_THROWS(matmul_kernels(Isa::avx512), "unsupported");
#endif
}

CHECK_MAIN
