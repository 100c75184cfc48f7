// Matrix products of SmolLM2-135M's shapes on one thread: GB/s of weights and GMAC/s per instruction set, beside the
// machine's streaming read. Weights come from memory, not from a cache: copies of each matrix are used in turn.
//
//   bench_matmul_kernels [isa=NAME] [m=ROWS] [format=NAME] [dtype=f32|bf16] [share=THREADS]
//
// share=N multiplies the first 1/N of each matrix's tiles alone, as one of N threads would.
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cpu/matmul/matmul.h"

using namespace deploykit;
using namespace deploykit::cpu;

namespace {

constexpr int64_t kFootprint = int64_t{160} << 20;  // several times the last-level cache

double now() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

uint8_t* reserve(int64_t bytes) {
  void* p = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) std::abort();
  madvise(p, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return static_cast<uint8_t*>(p);
}

// The best of several streaming reads, GB/s.
#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
double read_ceiling() {
  const int64_t count = kFootprint / 8;
  auto* data = reinterpret_cast<uint64_t*>(reserve(kFootprint));
  for (int64_t i = 0; i < count; ++i) data[i] = static_cast<uint64_t>(i);
  double best = 1e9;
  volatile uint64_t sink = 0;
  for (int64_t ahead : {0, 256, 512, 1024, 256, 512, 1024}) {  // elements
    uint64_t sums[16] = {};
    const double start = now();
    for (int64_t i = 0; i < count; i += 16) {
      __builtin_prefetch(data + i + ahead);
      __builtin_prefetch(data + i + ahead + 8);
      for (int j = 0; j < 16; ++j) sums[j] += data[i + j];
    }
    best = std::min(best, now() - start);
    for (uint64_t sum : sums) sink = sink + sum;
  }
  munmap(data, static_cast<size_t>(kFootprint));
  return static_cast<double>(kFootprint) / best * 1e-9;
}

struct Shape {
  int64_t rows, cols;
  WeightFormat format;
  const char* name;
};

struct Options {
  std::string isa, format;
  int64_t m = 0, share = 1;
  DType dtype = DType::bf16;
};

void fill(const WeightSpec& spec, std::vector<uint8_t>& data, std::vector<uint8_t>& scales,
          std::vector<uint8_t>& zeros) {
  const StoredBytes bytes = stored_bytes(spec);
  std::mt19937 random(1);
  // 0x2d as the high byte of every float16 and bfloat16 keeps scales finite; quants may be anything.
  for (auto [part, size] : {std::pair{&data, bytes.data}, {&scales, bytes.scales}, {&zeros, bytes.zeros}}) {
    part->resize(static_cast<size_t>(size));
    for (uint8_t& b : *part) b = static_cast<uint8_t>(random() % 45);
  }
}

void measure(const Shape& shape, Isa isa, const Options& options) {
  const WeightSpec spec{shape.name, shape.format, shape.rows, shape.cols, 128};
  std::vector<uint8_t> data, scales, zeros;
  fill(spec, data, scales, zeros);
  PackedMatrix w = plan_matrix(spec, options.dtype, isa);
  const int64_t bytes = packed_bytes(w), copies = kFootprint / bytes + 1;
  uint8_t* memory = reserve(bytes * copies);
  w.data = memory;
  WeightTensor tensor{spec, data.data(), static_cast<int64_t>(data.size()), scales.data(),
                      static_cast<int64_t>(scales.size()), zeros.data(), static_cast<int64_t>(zeros.size()), 0};
  pack_matrix(w, tensor);
  for (int64_t i = 1; i < copies; ++i) std::memcpy(memory + i * bytes, memory, static_cast<size_t>(bytes));
  const MatmulKernels& kernels = matmul_kernels(isa);
  const bool slow = isa == Isa::scalar;
  for (int64_t m : {1, 4, 16, 64, 512}) {
    if ((options.m != 0 && options.m != m) || (slow && m > 16)) continue;
    std::vector<uint8_t> a_memory(static_cast<size_t>(activation_bytes(m, shape.cols)) + 64);
    std::vector<uint8_t> scratch(static_cast<size_t>(matmul_scratch_bytes(shape.cols)) + 64);
    const auto align = [](uint8_t* p) { return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64; };
    Activations a;
    bind_activations(a, m, shape.cols, align(a_memory.data()));
    a.rows = m;
    a.cols = shape.cols;
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < m * shape.cols; ++i) a.f32[i] = normal(random);
    kernels.prepare(a, w.act, 0, m, 0, shape.cols);
    const int64_t tiles = (w.tiles() + options.share - 1) / options.share, ldo = tiles * kTileRows;
    const double part = static_cast<double>(tiles) / static_cast<double>(w.tiles());
    std::vector<float> out(static_cast<size_t>(m * ldo));
    double best = 1e9, spent = 0.0;
    int64_t copy = 0;
    for (int repeat = 0; repeat < 400 && (spent < 0.25 || repeat < 3); ++repeat) {
      // Enough calls for the clock: one pass over the copies at most.
      const double macs = static_cast<double>(m * shape.rows * shape.cols);
      const int64_t calls = std::max<int64_t>(1, std::min<int64_t>(copies, static_cast<int64_t>(4e8 / macs)));
      const double start = now();
      for (int64_t i = 0; i < calls; ++i) {
        w.data = memory + (copy++ % copies) * bytes;
        kernels.multiply(w, a, 0, m, 0, tiles, out.data(), ldo, align(scratch.data()));
      }
      const double seconds = now() - start;
      spent += seconds;
      best = std::min(best, seconds / static_cast<double>(calls));
    }
    std::printf("%-8s %-5s %6ld x %-5ld %5ld %9.2f %9.1f %10.1f\n", isa_name(isa), shape.name, shape.rows, shape.cols,
                m, part * static_cast<double>(bytes) / best * 1e-9,
                part * static_cast<double>(m * shape.rows * shape.cols) / best * 1e-9, best * 1e6);
    std::fflush(stdout);
  }
  munmap(memory, static_cast<size_t>(bytes * copies));
}

// What surrounds the products: repacking at load, and the activations of one row and of many.
void measure_rest(Isa isa) {
  const WeightSpec spec{"w", WeightFormat::q4_1, 1536, 576, 0};
  std::vector<uint8_t> data, scales, zeros;
  fill(spec, data, scales, zeros);
  PackedMatrix w = plan_matrix(spec, DType::bf16, isa);
  const int64_t bytes = packed_bytes(w);
  w.data = reserve(bytes);
  const WeightTensor tensor{spec, data.data(), static_cast<int64_t>(data.size()), nullptr, 0, nullptr, 0, 0};
  double pack = 1e9;
  for (int i = 0; i < 20; ++i) {
    const double start = now();
    pack_matrix(w, tensor);
    pack = std::min(pack, now() - start);
  }
  std::printf("%-8s pack q4_1 %.2f ns a weight", isa_name(isa), pack * 1e9 / (1536.0 * 576.0));
  munmap(w.data, static_cast<size_t>(bytes));
  for (int64_t rows : {1, 512}) {
    std::vector<uint8_t> memory(static_cast<size_t>(activation_bytes(rows, 576)) + 64);
    Activations a;
    bind_activations(a, rows, 576, memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64);
    a.rows = rows;
    a.cols = 576;
    for (int64_t i = 0; i < rows * 576; ++i) a.f32[i] = static_cast<float>(i % 97) - 48.0f;
    for (ActKind kind : {ActKind::int8, ActKind::bf16}) {
      double best = 1e9;
      for (int i = 0; i < 50; ++i) {
        const double start = now();
        for (int j = 0; j < 512 / rows; ++j) matmul_kernels(isa).prepare(a, kind, 0, rows, 0, 576);
        best = std::min(best, now() - start);
      }
      std::printf("; prepare %s, %ld x 576: %.2f us a row", kind == ActKind::int8 ? "int8" : "bf16", rows,
                  best * 1e6 / 512);
    }
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const size_t at = arg.find('=');
    const std::string key = arg.substr(0, at), value = at == std::string::npos ? "" : arg.substr(at + 1);
    if (key == "isa") options.isa = value;
    else if (key == "format") options.format = value;
    else if (key == "m") options.m = std::atol(value.c_str());
    else if (key == "share") options.share = std::atol(value.c_str());
    else if (key == "dtype") options.dtype = value == "f32" ? DType::f32 : DType::bf16;
    else return std::fprintf(stderr, "unknown argument %s\n", argv[i]), 2;
  }
  const struct {
    WeightFormat format;
    const char* name;
  } formats[] = {{WeightFormat::q4_1, "q4_1"}, {WeightFormat::q8_0, "q8_0"}, {WeightFormat::q4_0, "q4_0"},
                 {WeightFormat::awq, "awq"},   {WeightFormat::int8, "int8"}, {WeightFormat::bf16, "bf16"},
                 {WeightFormat::f32, "f32"},   {WeightFormat::f16, "f16"},   {WeightFormat::q5_1, "q5_1"},
                 {WeightFormat::q4_k, "q4_k"}, {WeightFormat::q6_k, "q6_k"}};
  const int64_t shapes[][2] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}};
  std::printf("streaming read, one thread: %.1f GB/s\n", read_ceiling());
  std::printf("%-8s %-5s %14s %5s %9s %9s %10s\n", "isa", "type", "shape", "m", "GB/s", "GMAC/s", "us");
  for (Isa isa : available_isas()) {
    if (!options.isa.empty() && options.isa != isa_name(isa)) continue;
    if (options.format.empty()) measure_rest(isa);
    for (const auto& f : formats) {
      const bool usual = f.format == WeightFormat::q4_1 || f.format == WeightFormat::q8_0;
      if (options.format.empty() ? !usual : options.format != f.name) continue;
      if (f.format != WeightFormat::q8_0 || !options.format.empty()) {
        for (const auto& shape : shapes) {
          if (f.format == WeightFormat::awq && shape[1] % 128 != 0) continue;
          if ((f.format == WeightFormat::q4_k || f.format == WeightFormat::q6_k) && shape[1] % 256 != 0) continue;
          measure({shape[0], shape[1], f.format, f.name}, isa, options);
        }
      }
      if (f.format == WeightFormat::q8_0) measure({49152, 576, f.format, f.name}, isa, options);
    }
  }
  return 0;
}
