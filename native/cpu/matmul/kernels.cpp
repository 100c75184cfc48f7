#include "cpu/matmul/matmul.h"

#include <string>

#include "deploykit/error.h"

namespace deploykit::cpu {

namespace scalar {
extern const MatmulKernels kMatmulKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const MatmulKernels kMatmulKernels;
}
namespace avxvnni {
extern const MatmulKernels kMatmulKernels;
}
namespace avx512 {
extern const MatmulKernels kMatmulKernels;      // 16-bit products by float32
extern const MatmulKernels kMatmulKernelsBf16;  // by vdpbf16ps
}  // namespace avx512
#elif defined(__aarch64__)
namespace neon {
extern const MatmulKernels kMatmulKernels;
}
#endif

const MatmulKernels& matmul_kernels(Isa isa) {
  switch (isa) {
    case Isa::scalar: return scalar::kMatmulKernels;
#if defined(__x86_64__)
    case Isa::avx2: return avx2::kMatmulKernels;
    case Isa::avxvnni: return avxvnni::kMatmulKernels;
    case Isa::avx512: return has_avx512_bf16() ? avx512::kMatmulKernelsBf16 : avx512::kMatmulKernels;
#elif defined(__aarch64__)
    case Isa::neon: return neon::kMatmulKernels;
#endif
    default: break;
  }
  throw Error("unsupported", std::string("this build has no matrix kernels for ") + isa_name(isa));
}

}  // namespace deploykit::cpu
