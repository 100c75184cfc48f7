#include "cpu/ops/ops.h"

#include "deploykit/error.h"

namespace deploykit::cpu {

// One table for each instruction set, in isa/ops_isa.cpp.
namespace scalar {
extern const OpsKernels kOps;
}
#if defined(__x86_64__)
namespace avx2 {
extern const OpsKernels kOps;
}
namespace avx512 {
extern const OpsKernels kOps;
}
#endif

const OpsKernels& ops_kernels(Isa isa) {
  switch (isa) {
    case Isa::scalar: return scalar::kOps;
#if defined(__x86_64__)
    case Isa::avx2:
    case Isa::avxvnni: return avx2::kOps;  // AVX-VNNI adds integer dot products alone
    case Isa::avx512: return avx512::kOps;
#endif
    default: break;
  }
  throw Error("unsupported", std::string("elementwise operations have no ") + isa_name(isa) +
                                 " path in this build; set isa to scalar");
}

}  // namespace deploykit::cpu
