#include "cpu/isa.h"

#include <cstdint>

#include "deploykit/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace deploykit::cpu {
namespace {

#if defined(__x86_64__)

// State that the operating system saves on a context switch (XCR0): without it the registers can't be used.
uint64_t saved_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

struct Features {
  bool avx2 = false, avxvnni = false, avx512 = false, avx512_bf16 = false;
};

Features probe() {
  Features f;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool osxsave = c >> 27 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1, avx = c >> 28 & 1;
  if (!osxsave || !avx || (saved_state() & 0x6) != 0x6) return f;
  uint32_t b7 = 0, c7 = 0, d7 = 0, a71 = 0;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return f;
  const uint32_t subleaves = a;
  if (subleaves >= 1) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
  f.avx2 = (b7 >> 5 & 1) && fma && f16c;
  f.avxvnni = f.avx2 && (a71 >> 4 & 1);
  const bool zmm = (saved_state() & 0xe6) == 0xe6;
  const bool base = (b7 >> 16 & 1) && (b7 >> 17 & 1) && (b7 >> 30 & 1) && (b7 >> 31 & 1);  // F, DQ, BW, VL
  f.avx512 = f.avx2 && zmm && base && (c7 >> 11 & 1);                                      // VNNI
  f.avx512_bf16 = f.avx512 && (a71 >> 5 & 1);
  return f;
}

const Features& features() {
  static const Features found = probe();
  return found;
}

#endif

}  // namespace

std::vector<Isa> available_isas() {
  std::vector<Isa> found;
#if defined(__x86_64__)
  if (features().avx512) found.push_back(Isa::avx512);
  if (features().avxvnni) found.push_back(Isa::avxvnni);
  if (features().avx2) found.push_back(Isa::avx2);
#elif defined(__aarch64__)
  found.push_back(Isa::neon);
#endif
  found.push_back(Isa::scalar);
  return found;
}

bool has_avx512_bf16() {
#if defined(__x86_64__)
  return features().avx512_bf16;
#else
  return false;
#endif
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::avx2: return "avx2";
    case Isa::avxvnni: return "avxvnni";
    case Isa::avx512: return "avx512";
    case Isa::neon: return "neon";
  }
  return "unknown";
}

Isa choose_isa(const std::string& name) {
  const std::vector<Isa> available = available_isas();
  if (name.empty()) return available.front();
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avxvnni, Isa::avx512, Isa::neon}) {
    if (name != isa_name(isa)) continue;
    for (Isa has : available) {
      if (has == isa) return isa;
    }
    throw Error("unsupported", "this CPU does not run " + name + "; the best it has is " + isa_name(available.front()));
  }
  throw Error("invalid", "unknown instruction set '" + name + "': scalar, avx2, avxvnni, avx512 or neon");
}

}  // namespace deploykit::cpu
