// The host's side of w4_chain_kernel.cuh: what it takes, and the launch.
#include <type_traits>

#include "cuda/kernels/w4_chain_kernel.cuh"

namespace deploykit::cuda {
namespace {

// Bytes beside the ring: the tokens and the sums of their groups.
int64_t token_bytes(int64_t k, int32_t m, int32_t group) { return m * (k * 2 + kTokenPad) + k / group * kW4ChainMaxM * 4; }

template <class T, int kGroup>
void run(Chain chain, int64_t k, cudaStream_t stream) {
  using S = Shape<kGroup>;
  const int beside = static_cast<int>(token_bytes(k, chain.links[0].a.m, kGroup));
  const int stages = (kSharedMost - beside) / S::kStageBytes;
  chain.stages = stages < kMostStages ? stages : kMostStages;
  if (chain.ahead > chain.stages) chain.ahead = chain.stages;  // a barrier remembers its last phase alone
  const size_t shared = static_cast<size_t>(chain.stages * S::kStageBytes + beside);
  const auto kernel = w4_chain_kernel<T, kGroup>;
  allow_shared("w4_chain", kernel, shared);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
             "w4_chain");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(multiprocessors()));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;  // all blocks start, or none
  attributes[config.numAttrs++].val.cooperative = 1;
  if (dependent_launch()) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  config.attrs = attributes;
  check_cuda(cudaLaunchKernelEx(&config, kernel, chain), "w4_chain");
}

int64_t outputs(const W4ChainLink& link) {
  return link.call.epilogue == Epilogue::gated ? link.weight->n / 2 : link.weight->n;
}

}  // namespace

bool w4_chain_takes(const W4Weight& w, int32_t m) {
  return has_wgmma() && m >= 1 && m <= kW4ChainMaxM && w.k % 128 == 0 && w.n % 16 == 0 &&
         token_bytes(w.k, m, w.group) + 4 * kSteps * (kStepBytes + (128 / w.group) * 64) <= kSharedMost;
}

// `ahead`: stages under way at a time; 0: the tuned choice.
void w4_chain_variant(int ahead, const W4ChainLink* links, int32_t count, uint32_t* arrivals, cudaStream_t stream) {
  require(count >= 1 && count <= kW4ChainMost, "w4_chain", "1 <= count <= 4");
  Chain chain = {};
  chain.count = count;
  chain.ahead = ahead > 0 ? ahead : kAhead;
  chain.arrivals = arrivals;
  for (chain.whole = 1; chain.whole < static_cast<uint32_t>(multiprocessors());) chain.whole *= 2;
  int64_t k = 0;
  const LinearCall& first = links[0].call;
  const W4Weight& w = *links[0].weight;
  for (int32_t i = 0; i < count; ++i) {
    const W4Weight& own = *links[i].weight;
    const LinearCall& call = links[i].call;
    require_w4("w4_chain", own);
    require(w4_chain_takes(own, call.m), "w4_chain", "w4_chain_takes() each weight");
    require(own.group == w.group && call.m == first.m && call.dtype == first.dtype && !call.y_f32, "w4_chain",
            "one group, m and dtype for all");
    require(i == 0 || (call.x == links[i - 1].call.y && own.k == outputs(links[i - 1])), "w4_chain",
            "a product takes what the one in front gives");
    Link& link = chain.links[i];
    link.a = linear_args("w4_chain", call, own.n, own.k, kW4ChainMaxM);
    link.data = static_cast<const char*>(own.data);
    link.params = reinterpret_cast<const char*>(own.params);
    link.tiles = static_cast<int32_t>(own.n / 16);
    link.steps = static_cast<int32_t>(own.k / 128);
    k = own.k > k ? own.k : k;
    const int32_t slab = static_cast<int32_t>(own.k * 2) + kTokenPad;
    if (slab > chain.slab) chain.slab = slab;
  }
  const auto with_type = [&](auto group) {
    constexpr int kGroup = decltype(group)::value;
    if (first.dtype == DType::f16) {
      run<__half, kGroup>(chain, k, stream);
    } else {
      run<__nv_bfloat16, kGroup>(chain, k, stream);
    }
  };
  if (w.group == 32) return with_type(std::integral_constant<int, 32>{});
  if (w.group == 64) return with_type(std::integral_constant<int, 64>{});
  with_type(std::integral_constant<int, 128>{});
}

void w4_chain(const W4ChainLink* links, int32_t count, uint32_t* arrivals, cudaStream_t stream) {
  w4_chain_variant(0, links, count, arrivals, stream);
}

}  // namespace deploykit::cuda
