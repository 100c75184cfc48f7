// Instruction sets that kernels are built for. A kernel's source is compiled once for each, into a namespace of its
// own, and chosen at run time.
#pragma once

#include <string>
#include <vector>

namespace deploykit::cpu {

enum class Isa { scalar, avx2, avxvnni, avx512, neon };  // avx512: F, BW, DQ, VL, VNNI; BF16 is asked for apart

// What this CPU and this operating system run, best first; scalar is always last.
std::vector<Isa> available_isas();
bool has_avx512_bf16();
const char* isa_name(Isa isa);
// Throws Error("invalid") for an unknown name and Error("unsupported") for one that this CPU lacks; "" = the best.
Isa choose_isa(const std::string& name);

}  // namespace deploykit::cpu
